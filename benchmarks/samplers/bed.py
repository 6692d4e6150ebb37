"""What the arms of samplers share: steps and rate, one training with its settings, tasks that are written and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.learning.bed import Data, Learned, LearningBed
from genepool.seeding import derive
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.testbed.data import Lengths, draw_input
from genepool.testbed.skills import StringTask
from genepool.training.journal import Journal

#: Optimiser steps of a training, and its learning rate: the default of this width, as in docs/learners.md.
STEPS, RATE = 80, 7.4e-3
#: Examples of a task's training, validation and test splits, where the task is written here.
COUNTS = {"train": 512, "valid": 64, "test": 128}
#: The four skills of the testbed.
FOUR = ("reverse", "sort", "upper", "caesar")


class SamplerBed(LearningBed):
    """The testbed of seed 0, which is trained once; the seed draws all else."""

    def __init__(self, seed: int) -> None:
        super().__init__(0)
        self.seed = seed


def strings(bed: LearningBed, skill: StringTask, lengths: Lengths, *, tags: bool = False) -> Path:
    """A task of strings as a folder: prompts under the skill's own tag, inputs of some lengths.

    Args:
        bed: whose seed draws them.
        skill: what is asked.
        lengths: of the inputs.
        tags: also tag each example with its length, as `length=5`.
    """
    name = f"{skill.name}-{lengths.shortest}-{lengths.longest}"
    if name not in bed.shelf:
        bed.shelf[name] = bed.written(
            name, **{"lines" if split == "train" else split: _lines(bed.seed, skill, lengths, split, tags)
                     for split in COUNTS},
            labels=COUNTS["train"], task=name, like="reverse",
        ).folder  # fmt: skip
    folder: Path = bed.shelf[name]
    return folder


def _lines(seed: int, skill: StringTask, lengths: Lengths, split: Any, tags: bool) -> list[dict[str, Any]]:
    draw = Random(derive(seed, "samplers", skill.name, lengths.shortest, lengths.longest, split))
    texts: dict[str, None] = {}
    # There are few different inputs of two letters.
    for _ in range(20 * COUNTS[split]):
        texts[draw_input(draw, lengths, split)] = None
        if len(texts) == COUNTS[split]:
            break
    return [
        {
            "prompt": f"{skill.tag}{text}=",
            "answer": skill.answer(text),
            **({"tags": [f"length={len(text)}"]} if tags else {}),
        }
        for text in texts
    ]


def learned(
    bed: LearningBed,
    folders: Sequence[Path],
    rate: float,
    sampler: str | None,
    sampler_options: Mapping[str, Any],
    **more: Any,
) -> Learned:
    """A training on some tasks, with a sampler; `more` are further keys of it."""
    first, *others = folders
    chosen = {} if sampler is None else {"sampler": sampler, "sampler_options": dict(sampler_options)}
    return bed.learn(
        Data(first, 0, beside=tuple(others)), learning_rate=rate, **{"steps": STEPS, "form": "lora", **chosen, **more}
    )


def marks(bed: LearningBed, model: str, folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Whether each test example of some task folders is answered right."""
    tasks = [task for folder in folders for task in load_tasks(folder)]
    with Ledger(":memory:") as ledger:
        table = evaluate([bed.source(model)], tasks, split="test", ledger=ledger, keep_outputs=False)
    return {task: table.scores(table.models[0], task) for task in table.tasks}


def last_loss(made: Learned) -> float:
    """The mean loss on the validation examples after the last step."""
    with Journal(made.out / "run.sqlite") as journal:
        return journal.validations()[-1].loss
