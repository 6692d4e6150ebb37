"""A digits base of random weights, skills that are small steps away from it, and images that have no meaning.

Nothing is trained: what a fit learns is how to stay near what each skill predicts, which needs no meaning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genepool.tasks.models.digits.network import DigitsTransformer, Shape

SHAPE = Shape(8, 2, 2, 12)
SKILLS = ("first", "second", "third")


def network(seed: int, base: DigitsTransformer | None = None, size: float = 0.5) -> DigitsTransformer:
    """A network of random weights, or one a step away from a base, whose answers differ from image to image."""
    torch.manual_seed(seed)
    made = DigitsTransformer(SHAPE).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.6)
            if base is not None:
                before = base.get_parameter(name)
                parameter.copy_(before + size * (parameter - before))
        # As sure of its answers as what was trained, and of none of them for all images.
        made.head.weight *= 3
        made.head.bias -= made(torch.rand(256, 64)).mean(0)
    return made


def save(folder: Path, tensors: dict[str, torch.Tensor], shape: Shape = SHAPE) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return folder


def write_task(folder: Path, seed: int, counts: dict[str, int] | None = None, answers: Sequence[str] = ()) -> Path:
    drawn = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for split, count in (counts or {"train": 24, "valid": 8, "test": 12}).items():
        rows = []
        for number in range(count):
            prompt = " ".join(map(str, drawn.integers(0, 17, 64)))
            answer = answers[number % len(answers)] if answers else str(drawn.integers(0, 10))
            rows.append(json.dumps({"id": f"{split}-{number}", "prompt": prompt, "answer": answer}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    return folder


def build(world: Path) -> Path:
    """base/, full/{first,second,third}, tasks/{first,second,third,plain}."""
    base = network(0)
    save(world / "base", base.state_dict())
    for number, name in enumerate(SKILLS, 1):
        save(world / "full" / name, network(number, base).state_dict())
    for number, name in enumerate((*SKILLS, "plain")):
        write_task(world / "tasks" / name, number)
    return world


def quick(**options: Any) -> list[str]:
    """`--set` for a fit of a second."""
    return [
        word
        for key, value in {"steps": 4, "every": 2, "batch": 8, **options}.items()
        for word in ("--set", f"{key}={value}")
    ]
