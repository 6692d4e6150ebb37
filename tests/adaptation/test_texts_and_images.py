"""Streams of texts and of image files: transformers' own classifiers, asked by prompts of any length."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_streams import write_stream

from genepool.adaptation import Adaptation, Stream, load_stream
from genepool.errors import InputError
from genepool.tasks import open_model
from tests.tasks.tiny_models import write_classifier, write_image_classifier

TEXTS = ["abc", "a", "defgh 12", "ab", "hhhh", "c d e f", "1234567", "b"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A classifier of texts, and a stream of texts of unequal lengths for it."""
    folder = tmp_path_factory.mktemp("texts")
    lines = [{"id": str(at), "prompt": text, "answer": "good"} for at, text in enumerate(TEXTS * 2)]
    stream = write_stream(folder / "stream", lines, source=False, order="file")
    source = [f'{{"id": "{at}", "prompt": "{text}", "answer": "bad"}}\n' for at, text in enumerate(TEXTS)]
    (stream / "source.jsonl").write_text("".join(source))
    return write_classifier(folder / "model"), stream


def test_what_is_issued_first_is_what_the_model_says(texts: tuple[Path, Path]) -> None:
    model, stream = texts
    step = next(Adaptation(model, stream, "tent", rounds=1))
    wanted = open_model(model).load().class_scores(TEXTS).exp()
    torch.testing.assert_close(step.probabilities, wanted, atol=1e-5, rtol=1e-4)
    assert step.predicted == tuple(("bad", "good")[at] for at in wanted.argmax(-1).tolist())


@pytest.mark.parametrize("name", ["eata", "lame", "wisdom", "label_shift"])
def test_adapters_that_see_no_pixels_adapt_to_texts(texts: tuple[Path, Path], name: str) -> None:
    model, stream = texts
    options: dict[str, dict[str, Any]] = {"label_shift": {"steps": 3}, "eata": {"margin": 1.0, "redundancy": 1.0}}
    run = Adaptation(model, stream, name, options=options.get(name), rounds=2)
    assert all(torch.isfinite(step.probabilities).all() for step in run)


@pytest.mark.parametrize("name", ["cotta", "rmt"])
def test_adapters_of_images_refuse_texts(texts: tuple[Path, Path], name: str) -> None:
    model, stream = texts
    with pytest.raises(InputError, match="reads no images"):
        Adaptation(model, stream, name)


def test_image_files_are_named_from_the_streams_folder(tmp_path: Path) -> None:
    from PIL import Image

    stream = tmp_path / "stream"
    (stream / "images").mkdir(parents=True)
    for at in range(4):
        Image.new("RGB", (8, 8), (60 * at, 20, 200 - 40 * at)).save(stream / "images" / f"{at}.png")
    lines = [{"id": str(at), "prompt": f"images/{at}.png", "answer": "cat"} for at in range(4)]
    write_stream(stream, lines, source=False, order="file")
    model = write_image_classifier(tmp_path / "model")
    step = next(Adaptation(model, stream, "tent", rounds=1))
    wanted = open_model(model).load().class_scores([str(stream / "images" / f"{at}.png") for at in range(4)]).exp()
    torch.testing.assert_close(step.probabilities, wanted, atol=1e-5, rtol=1e-4)
    digest = load_stream(stream).digest
    shutil.copytree(stream, tmp_path / "moved")
    assert load_stream(tmp_path / "moved").digest == digest
    # What is in a file counts, and not what it is called.
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "moved" / "images" / "3.png")
    assert load_stream(tmp_path / "moved").digest != digest
    (stream / "images" / "2.png").rename(stream / "images" / "9.png")
    lines[2]["prompt"] = "images/9.png"
    assert load_stream(write_stream(stream, lines, source=False, order="file")).digest == digest
    files = [stream / "images" / f"{at}.png" for at in (0, 1)]
    made = Stream.of(files).digest
    assert Stream.of([Path(shutil.copy(one, tmp_path / f"x{one.name}")) for one in files]).digest == made
    assert Stream.of(files[::-1]).digest != made
    lines[2]["prompt"] = "../0.png"
    write_stream(stream, lines, source=False, order="file")
    with pytest.raises(InputError, match="outside the stream's folder"):
        Adaptation(model, stream, "tent")
    lines[2]["prompt"] = "images/2.png"
    write_stream(stream, lines, source=False, order="file")
    with pytest.raises(InputError, match="images/2.png"):
        Adaptation(model, stream, "tent")
