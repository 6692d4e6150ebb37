"""MedS3's search for own data, on Countdown: what a tree finds, against the right ones of as many tokens of samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from genepool.tasks import Ledger, evaluate, load_tasks

_TASK = "countdown"
_FOLDER = Path(__file__).parents[3] / "recipes" / _TASK
#: Tokens of a round, rounds, and steps that the base is taught before them.
_TOKENS, _ROUNDS, _TAUGHT = 10_000, 2, 200

_FINDING: dict[str, dict[str, Any]] = {
    "search": {"search": {"step": ";", "nodes": 20, "depth": 6, "exploration": 2, "width": 4, "tokens": _TOKENS}},
    "best of n": {"sample": {"samples": 16, "tokens": _TOKENS}},
}


def _data(bed: LearningBed) -> Data:
    return Data(_FOLDER, 0)


def _taught(bed: LearningBed) -> Learned:
    """The base after supervised steps, so that it is sometimes right."""
    if _TASK not in bed.shelf:
        bed.shelf[_TASK] = bed.learn(_data(bed), form="full", steps=_TAUGHT, learning_rate=4e-3)
    found: Learned = bed.shelf[_TASK]
    return found


def _found(how: str, bed: LearningBed, rate: float) -> Learned:
    made = bed.loop(
        _data(bed), base=_taught(bed).model, form="full", rounds=_ROUNDS,
        training={"batch": 16, "learning_rate": rate},
        round=({"draw": {}}, _FINDING[how], {"select": {"by": "all", "at_least": 1.0}}, {"train": {"steps": 30}}),
    )  # fmt: skip
    return Learned("", made.steps, made.generated, made.labels, marks={_TASK: _asked(bed, made.model)})


def _asked(bed: LearningBed, model: str) -> np.ndarray:
    with Ledger(":memory:") as ledger:
        table = evaluate([bed.source(model)], load_tasks(_FOLDER), split="test", ledger=ledger, keep_outputs=False)
    return table.scores(table.models[0], _TASK)


ARMS = (
    Arm("countdown, search", f"the base taught Countdown, then {_ROUNDS} rounds on right derivations found by a tree "
        f"search of {_TOKENS:,} tokens", partial(_found, "search"), (1e-3,)),
    Arm("countdown, best of n", "the same, found among samples of as many tokens", partial(_found, "best of n"),
        (1e-3,)),
)  # fmt: skip

CLAIMS = (
    LearningClaim(
        "search", "What a tree search finds teaches more than the right ones of as many samples",
        "Jiang et al. 2025 (MedS3)", ("countdown, search", "countdown, best of n"),
        scored("countdown, search", "countdown, best of n", (_TASK,)),
        better("search minus best of n, equally many generated tokens and steps (Countdown)"),
        "without a process reward model",
    ),
)  # fmt: skip
