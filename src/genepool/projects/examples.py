"""The example task of a project: a few lines that load and can be asked as they are, to be replaced by the user's own.

What is asked depends on what a kind of model can be asked for: a text to write, or a class of a text or of an image.
Uses tasks.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.tasks.models import Model
from genepool.tasks.models.digits import MODEL_TYPE, PIXELS, WHITE
from genepool.weights.class_head import class_names

NAME = "example"
SPLITS = ("train", "valid", "test")
#: Lines of each split: enough for a command to show how it works, few enough to be replaced without a second look.
LINES = 8
_SIDE = 16
# No model has them yet.
_NEW_CLASSES = ("class-a", "class-b")


def write_example(folder: Path, kind: type[Model], config: Mapping[str, Any], *, headless: bool = False) -> None:
    """Writes the task, its settings and what to do with it.

    Args:
        folder: of the task; it is made.
        kind: what kind of model will be asked.
        config: the model's config.json, which names the classes of a classifier.
        headless: a training makes the head, for the classes that the task says.
    """
    folder.mkdir(parents=True)
    writes = "classes" not in kind.can
    settings = ["# How the examples beside this file are asked and judged; all keys: docs/reference/task.md"]
    if kind.reads == "image":
        settings += ["input: image"]
        (folder / "pictures").mkdir()
    settings += ["metric: exact_match   # or contains, regex, multiple_choice (each example then has `choices`)"]
    if writes:
        settings += ["max_new_tokens: 8     # the most tokens an answer may have"]
    labels = () if writes else _NEW_CLASSES if headless else _labels(config)
    if headless:
        settings += [f"classes: [{', '.join(labels)}]   # what every answer is one of; training makes a head for these"]
    (folder / "task.yaml").write_text("\n".join(settings) + "\n", encoding="utf-8")
    for place, split in enumerate(SPLITS):
        rows = []
        for number in range(LINES):
            said = f"{NAME}-{split}-{number}-replace-me"
            asked = place * LINES + number
            if writes:
                rows.append({"id": said, "prompt": f"{asked} + 1 =", "answer": str(asked + 1)})
            elif kind.reads == "image":
                picture = f"pictures/{split}-{number}.png"
                (folder / picture).write_bytes(_png(asked))
                rows.append({"id": said, "image": picture, "answer": labels[number % len(labels)]})
            else:
                rows.append({"id": said, "prompt": _text(config, asked), "answer": labels[number % len(labels)]})
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_readme(kind, labels), encoding="utf-8")


def _text(config: Mapping[str, Any], number: int) -> str:
    if config.get("model_type") == MODEL_TYPE:
        return " ".join(str((number * place) % (WHITE + 1)) for place in range(PIXELS))
    return f"text {number}: replace me"


def _labels(config: Mapping[str, Any]) -> Sequence[str]:
    """The names of the classes as transformers reads them; two of its own making where the config names none."""
    if config.get("model_type") == MODEL_TYPE:
        return tuple(map(str, range(10)))
    return class_names(config) or ("LABEL_0", "LABEL_1")


def _png(number: int) -> bytes:
    """A square of one colour."""
    colour = bytes((number * 37 % 256, number * 91 % 256, number * 151 % 256))
    rows = (b"\0" + colour * _SIDE) * _SIDE

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _readme(kind: type[Model], labels: Sequence[str]) -> str:
    if kind.reads == "image":
        line = '{"image": "pictures/1.jpg", "answer": "' + labels[0] + '"}, the image a file below this folder'
    elif labels:
        line = '{"prompt": "a text", "answer": "' + labels[0] + '"}'
    else:
        line = '{"prompt": "what the model reads", "answer": "what it should write"}'
    classes = f"\nThe answer is the name of a class: {', '.join(labels[:20])}{' ...' if len(labels) > 20 else ''}.\n"
    return (
        f"# An example: replace it\n\nEvery line of `train.jsonl`, `valid.jsonl` and `test.jsonl` is one example:\n\n"
        f"    {line}\n{classes if labels else ''}\n"
        "Put your own lines in their place, no example in two of the files, and give this folder the name of the "
        "ability. A search\nchooses by `valid`, results are told on `test`, training learns from `train`. One folder "
        "beside this one for each further\nability; one for what must not be forgotten, too.\n"
    )
