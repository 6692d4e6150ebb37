"""Rep-MTL: eight tasks at once, each the same digits with their pixels rearranged, against equal weights.

The digits are scikit-learn's. A small vision transformer learns all eight rearrangements from nothing, by every tensor;
the same images stand at the same places of all tasks, so that a sample is one image in eight shapes.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.testbed.digits.rearranging import TASKS

#: Width, layers, heads and width of the inner layer.
_SIZES = (32, 2, 4, 64)
#: Steps, images of a step (16 of each task), and the learning rate, which is that of the testbed's own base.
_STEPS, _IMAGES, _RATE = 400, 128, 4e-3

#: The weights of both terms, by arm.
_WEIGHTS = {
    "eight tasks, equal weights": {"tsr": 0.0, "csa": 0.0},
    "rep_mtl": {},
}


def _data(bed: LearningBed) -> Data:
    """A folder for each rearrangement, made once."""
    if "rearranged digits" not in bed.shelf:
        from genepool.testbed.digits.images import load_images, write_items

        images, folders = load_images(), []
        for task in TASKS.values():
            folder = bed.work / "data" / "rearranged digits" / task.name
            folder.mkdir(parents=True)
            for split, part in images.items():
                write_items(folder / f"{split}.jsonl", task, split, part)
            classes = json.dumps([str(digit) for digit in range(10)])
            (folder / "task.yaml").write_text(f"metric: exact_match\nclasses: {classes}\n")
            folders.append(folder)
        labels = len(TASKS) * len(images["train"].digits)
        bed.shelf["rearranged digits"] = Data(folders[0], labels, beside=tuple(folders[1:]))
    found: Data = bed.shelf["rearranged digits"]
    return found


def _untrained(bed: LearningBed) -> str:
    from safetensors.torch import save_file

    from genepool.tasks.models.digits.network import Shape
    from genepool.testbed.digits.model import new_base

    shape, folder = Shape(*_SIZES), bed.work / "untrained"
    if not folder.is_dir():
        folder.mkdir()
        tensors = {key: tensor.contiguous() for key, tensor in new_base(shape, bed.seed).state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(shape.config()))
    return str(folder)


def _learned(name: str, bed: LearningBed, rate: float) -> Learned:
    data = _data(bed)
    made = bed.learn(
        data, base=_untrained(bed), objective="rep_mtl", options={"aligned": True, **_WEIGHTS[name]}, form="full",
        steps=_STEPS, batch=_IMAGES, learning_rate=rate,
    )  # fmt: skip
    with Ledger(":memory:") as ledger:
        tasks = [task for folder in data.folders for task in load_tasks(folder)]
        table = evaluate([bed.source(made.model)], tasks, split="test", ledger=ledger, keep_outputs=False)
    marks: dict[str, np.ndarray] = {_mark(task): table.scores(table.models[0], task) for task in TASKS}
    return Learned("", made.steps, labels=data.labels, marks=marks)


def _mark(task: str) -> str:
    return f"{task} digits"


_MARKS = tuple(map(_mark, TASKS))

ARMS = tuple(
    Arm(name, words, partial(_learned, name), (_RATE,), bare=True)
    for name, words in (
        ("eight tasks, equal weights", "an image classifier that learns eight rearrangements of digits at once"),
        ("rep_mtl", "the same with both terms of Rep-MTL, weights of 0.9"),
    )
)


CLAIMS = (
    LearningClaim(
        "rep-mtl", "Rep-MTL beats equal weights", "Wang et al. 2025 (Rep-MTL)",
        ("rep_mtl", "eight tasks, equal weights"), scored("rep_mtl", "eight tasks, equal weights", _MARKS),
        better("Rep-MTL minus equal weights, equally many steps and labels (mean of eight rearrangements of digits)"),
        "one head for all tasks; 120 steps of 64 images were tried first, where most models stayed near chance",
        same_examples=True,
    ),
)  # fmt: skip
