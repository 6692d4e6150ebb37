"""The tasks of a study as it asks them, with validation and test examples that are not the same ones.

Uses tasks; what evaluates a study and what reads its ledger ask here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.evolution.study import Study

if TYPE_CHECKING:
    from genepool.tasks import Task


def load_study_tasks(study: Study, trusted: Collection[str | Path] = ()) -> list[Task]:
    """The tasks that a study names.

    Args:
        study: the study.
        trusted: files of tasks that may run code.

    Raises:
        InputError: they are not there, or `held_out` leaves one of their parts without examples.
    """
    from genepool.tasks import load_tasks

    tasks = load_tasks(study.tasks.dir, study.tasks.names, trusted=trusted)
    share = study.tasks.held_out
    return tasks if share is None else [_parted(task, share) for task in tasks]


def _parted(task: Task, share: float) -> Task:
    """A task with one split, cut in two by what its examples say; another task as it is."""
    examples = task.examples("valid")
    if examples is not task.examples("test"):
        return task
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise InputError(
            f"`held_out: {share:g}` keeps {count} of {len(examples)} examples for the test",
            where=task.name,
            fix="Give the task more examples, or choose another share",
        )
    # The order of their digests is the same whatever the order of a file, and has nothing to do with it.
    kept = sorted(examples, key=lambda one: hashlib.sha256(f"held out\x1f{one.key}\x1f{one.id}".encode()).digest())
    test = {id(one) for one in kept[:count]}
    valid = [one for one in examples if id(one) not in test]
    return replace(task, splits={"train": valid, "valid": valid, "test": [one for one in examples if id(one) in test]})
