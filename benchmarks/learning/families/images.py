"""HARD: a small image classifier learns from a larger one, on images that it is asked to find hard.

The digits are scikit-learn's. The teacher has seen them transformed; the student sees the images as they are, and those
that the objective transforms. Both are asked test images under transformations that are drawn once.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from genepool.seeding import torch_generator
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.testbed.data import Split
from genepool.training.augmenter import LIMITS, transformed

_SHIFTED = "shifted digits"
#: Width, layers, heads and width of the inner layer of teacher and student.
_TEACHER, _STUDENT = (48, 2, 4, 96), (16, 1, 2, 16)
#: Steps of the teacher and of a student, their learning rate, and copies of each image that the teacher sees.
_LONG, _SHORT, _RATE, _COPIES = 400, 200, 3e-3, 4
#: Transformations of the test images, in their limits.
_SPREAD = 0.5


def _lines(split: Split, copies: int, seed: int) -> list[dict[str, Any]]:
    """The images of a split as they are, or so many transformed copies of each."""
    import torch

    from genepool.testbed.digits.images import load_images

    images = load_images()[split]
    pixels = torch.tensor(images.pixels, dtype=torch.float32)
    found = []
    for copy in range(max(1, copies)):
        shown = pixels
        if copies:
            noise = torch.randn(len(pixels), len(LIMITS), generator=torch_generator(seed, split, copy))
            drawn = torch.tensor(list(LIMITS.values())) * torch.tanh(_SPREAD * noise)
            shown = transformed(pixels.reshape(-1, 1, 8, 8), drawn).reshape(pixels.shape)
        rows = shown.round().clamp(0, 16).int().tolist()
        found += [
            {"id": f"{split}-{copy}-{at}", "prompt": " ".join(map(str, row)), "answer": str(digit)}
            for at, (row, digit) in enumerate(zip(rows, images.digits, strict=True))
        ]
    return found


def _task(bed: LearningBed, name: str, train: list[dict[str, Any]], valid: list[dict[str, Any]]) -> Data:
    """A task of digits; its test split is that of the shifted images."""
    if name not in bed.shelf:
        folder = bed.work / "data" / name / "digits"
        folder.mkdir(parents=True)
        test = _lines("test", 1, bed.seed)
        for split, lines in (("train", train), ("valid", valid), ("test", test)):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "task.yaml").write_text(f"metric: exact_match\nclasses: {json.dumps([str(n) for n in range(10)])}\n")
        bed.shelf[name] = Data(folder, len(train))
    found: Data = bed.shelf[name]
    return found


def _untrained(bed: LearningBed, name: str, sizes: tuple[int, int, int, int]) -> str:
    from safetensors.torch import save_file

    from genepool.tasks.models.digits.network import Shape
    from genepool.testbed.digits.model import new_base

    shape, folder = Shape(*sizes), bed.work / name
    if not folder.is_dir():
        folder.mkdir()
        tensors = {key: tensor.contiguous() for key, tensor in new_base(shape, bed.seed).state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(shape.config()))
    return str(folder)


def _teacher(bed: LearningBed) -> str:
    if "digits teacher" not in bed.shelf:
        data = _task(bed, "transformed", _lines("train", _COPIES, bed.seed + 1000), _lines("valid", 1, bed.seed))
        bed.shelf["digits teacher"] = bed.learn(
            data, base=_untrained(bed, "teacher", _TEACHER), form="full", steps=_LONG, learning_rate=_RATE, batch=64
        )
    found: Learned = bed.shelf["digits teacher"]
    return found.model


def _student(pace: float, bed: LearningBed, rate: float) -> Learned:
    """Hard augmentations, or with a pace of 0 random ones."""
    data = _task(bed, "as they are", _lines("train", 0, bed.seed), _lines("valid", 0, bed.seed))
    made = bed.learn(
        data, base=_untrained(bed, "student", _STUDENT), teacher=_teacher(bed), objective="hard", form="full",
        steps=_SHORT, learning_rate=rate, batch=64, options={"pace": pace},
    )  # fmt: skip
    return Learned("", made.steps, labels=0, marks={_SHIFTED: _asked(bed, made.model, data)})


def _asked(bed: LearningBed, model: str, data: Data) -> np.ndarray:
    with Ledger(":memory:") as ledger:
        table = evaluate([bed.source(model)], load_tasks(data.folder), split="test", ledger=ledger, keep_outputs=False)
    return table.scores(table.models[0], "digits")


def _teacher_asked(bed: LearningBed, _: float) -> Learned:
    data = _task(bed, "as they are", _lines("train", 0, bed.seed), _lines("valid", 0, bed.seed))
    return Learned("", _LONG, labels=data.labels, marks={_SHIFTED: _asked(bed, _teacher(bed), data)})


ARMS = (
    Arm("digits teacher", "an image classifier that learned from transformed digits", _teacher_asked, (0.0,)),
    Arm("random augmentation", "a small one, distilled on digits as they are and under random transformations",
        partial(_student, 0.0), (_RATE,)),
    Arm("hard", "the same under transformations that the student finds hard", partial(_student, 10.0), (_RATE,)),
)  # fmt: skip

CLAIMS = (
    LearningClaim(
        "hard", "Hard augmentations beat random ones where the test is shifted", "Nix et al. 2023 (HARD)",
        ("hard", "random augmentation"), scored("hard", "random augmentation", (_SHIFTED,)),
        better("hard augmentations minus random ones, equally many steps and teacher's answers (transformed digits)"),
        "affine transformations alone; as large in the test as the teacher has seen",
    ),
)  # fmt: skip
