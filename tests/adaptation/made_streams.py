"""A small classifier of digits and streams for it, made by hand: no training, no scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genepool.tasks.models.digits.network import DigitsTransformer, Shape

SHAPE = Shape(16, 2, 2, 24)


def write_model(folder: Path, seed: int = 0) -> Path:
    """A model that was never trained, and yet prefers some classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsTransformer(SHAPE)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("weight") and parameter.dim() == 2:
                    parameter.mul_(3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE.config()))
    return folder


def rows(count: int = 48, seed: int = 0, domains: tuple[str, ...] = ("noise", "fog")) -> list[dict[str, Any]]:
    """Lines of a stream: random images whose answers are random."""
    draw = np.random.default_rng(seed)
    return [
        {
            "id": f"e{at}",
            "input": draw.random(64).round(3).tolist(),
            "answer": str(draw.integers(10)),
            "domain": domains[at * len(domains) // count],
            "severity": 1 + at % 5,
        }
        for at in range(count)
    ]


def write_stream(
    folder: Path, lines: list[dict[str, Any]] | None = None, *, source: bool = True, **settings: Any
) -> Path:
    """A stream of these lines; a batch has 8 examples and there are two rounds unless something else is said."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"genepool_stream": 1, "batch": 8, "rounds": 2, "order": "shuffled", **settings}
    (folder / "stream.json").write_text(json.dumps(said))
    lines = rows() if lines is None else lines
    (folder / "stream.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if source:
        shown = [{key: row[key] for key in ("id", "input", "answer")} for row in rows(40, seed=7)]
        (folder / "source.jsonl").write_text("".join(json.dumps(line) + "\n" for line in shown))
    return folder


def write_conv_model(folder: Path) -> Path:
    """A convolutional network with batch norms, whose running statistics are not those it starts with."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
            id2label={at: str(at) for at in range(10)}, label2id={str(at): at for at in range(10)},
        )  # fmt: skip
        model = transformers.ResNetForImageClassification(config)
        model.train()
        for _ in range(3):
            model(pixel_values=torch.rand(16, 1, 16, 16))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def image_rows(count: int = 24) -> list[dict[str, Any]]:
    """Lines of a stream of images, one channel of 16 x 16 pixels."""
    draw = np.random.default_rng(1)
    return [
        {"id": f"i{at}", "input": draw.random((1, 16, 16)).round(3).tolist(), "answer": str(at % 10)}
        for at in range(count)
    ]
