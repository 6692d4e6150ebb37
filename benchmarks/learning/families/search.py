"""MedS3 on Countdown: what a tree finds against the right ones of as many samples, and who chooses among samples."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored, within
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.training.loops.data import Line, read_lines
from genepool.training.loops.judging import voted
from genepool.training.loops.stages.process import chosen_sample

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


def _judged(bed: LearningBed, rate: float) -> Learned:
    """The policy after a round of search; then of the samples of each test prompt which one is chosen, and how."""
    tree = {**_FINDING["search"]["search"], "tokens": _MANY}
    judged = {"process": {"step": ";", "steps": _JUDGED, "batch": 32, "learning_rate": rate}}
    made = bed.loop(
        _data(bed), base=_taught(bed).model, form="full", rounds=1, training={"batch": 16, "learning_rate": 1e-3},
        round=(
            {"draw": {}}, {"search": tree}, {"select": {"by": "all", "at_least": 1.0}}, {"train": {"steps": 30}},
        ),
        last=({"draw": {"split": "test"}}, {"sample": {"samples": _SAMPLES}}, judged),
    )  # fmt: skip
    tasks = {_TASK: load_tasks(_FOLDER)[0]}

    def lines(stage: str, name: str) -> list[Line]:
        (file,) = (made.out / "stages").glob(f"0002-*-{stage}/{name}.jsonl")
        return read_lines(file, hashlib.sha256(file.read_bytes()).hexdigest(), tasks)

    drawn, told = lines("sample", "samples"), lines("process", "judged")
    first = [line.samples[0].reward for line in drawn]
    chosen = [line.samples[chosen_sample(other)].reward for line, other in zip(drawn, told, strict=True)]
    marks = {"chosen by its steps": chosen, "the most frequent one": list(map(voted, drawn)), "the first one": first}
    best = float(np.mean([max(line.rewards) for line in drawn]))
    found = {name: np.array(values, dtype=float) for name, values in marks.items()}
    return Learned("", made.steps, made.generated, made.labels, marks=found).saying(best_of_them=best)


def _asked(bed: LearningBed, model: str) -> np.ndarray:
    with Ledger(":memory:") as ledger:
        table = evaluate([bed.source(model)], load_tasks(_FOLDER), split="test", ledger=ledger, keep_outputs=False)
    return table.scores(table.models[0], _TASK)


#: Tokens of the search whose steps are learned from, optimiser steps of the process reward model, samples of a prompt.
_MANY, _JUDGED, _SAMPLES = 20_000, 200, 8

ARMS = (
    Arm("countdown, search", f"the base taught Countdown, then {_ROUNDS} rounds on right derivations found by a tree "
        f"search of {_TOKENS:,} tokens", partial(_found, "search"), (1e-3,)),
    Arm("countdown, best of n", "the same, found among samples of as many tokens", partial(_found, "best of n"),
        (1e-3,)),
    Arm("countdown, process reward", f"after one round of search ({_MANY:,} tokens): which of {_SAMPLES} samples of a "
        "test prompt is right, chosen by a process reward model that learned the values of the trees' steps",
        _judged, (3e-3,)),
)  # fmt: skip

CLAIMS = (
    LearningClaim(
        "search", "What a tree search finds teaches more than the right ones of as many samples",
        "Jiang et al. 2025 (MedS3)", ("countdown, search", "countdown, best of n"),
        scored("countdown, search", "countdown, best of n", (_TASK,)),
        better("search minus best of n, equally many generated tokens and steps (Countdown)"),
        "without a process reward model",
    ),
    LearningClaim(
        "process-vote", "A process reward model chooses better than a vote", "Jiang et al. 2025 (MedS3)",
        ("countdown, process reward",),
        within("countdown, process reward", "chosen by its steps", "the most frequent one"),
        better(f"the sample chosen by its steps minus the most frequent one of the same {_SAMPLES} (Countdown)"),
        "by the least likely step",
    ),
    LearningClaim(
        "process-first", "It chooses better than nobody", "Jiang et al. 2025 (MedS3)", ("countdown, process reward",),
        within("countdown, process reward", "chosen by its steps", "the first one"),
        better("the sample chosen by its steps minus the first one (Countdown)"),
    ),
)  # fmt: skip
