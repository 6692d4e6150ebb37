"""Preferences that the model makes itself or that drift: which pairs to learn from, and with how many rates."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import BATCH, TARGET, Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, less, scored, target, told
from genepool import merge
from genepool.merging import Recipe
from genepool.training.examples import TrainingExample, TrainingExamples
from genepool.training.folder import JOURNAL_FILE

#: The best of DPO on this testbed; that of pairs that arrive once is higher, since each is seen once.
_RATES, _ONLINE = (3e-4,), (1e-3,)
_ROUNDS, _STEPS, _PROMPTS = 2, 20, 128
#: Of the estimator, which reads whole comparisons.
_ESTIMATOR = 60


# ---------------------------------------------------------------------- pairs by an uncertain reward


def _pairs(how: str, bed: LearningBed, rate: float, count: int = 0) -> Learned:
    """Known pairs first, then rounds of pairs that the majority of the model's own samples makes."""
    dpo = {"objective": "dpo", "steps": _STEPS, "learning_rate": rate}
    chosen: dict[str, list[dict[str, Any]]] = {
        "all": [{"train": {"of": "pairs", **dpo}}],
        "some": [{"draw": {"of": "pairs", "count": count, "to": "some"}}, {"train": {"of": "some", **dpo}}],
        "reliable": [{"reliable": {"steps": _ESTIMATOR, "keep_known": False}}, {"train": {"of": "reliable", **dpo}}],
    }
    return bed.loop(
        bed.labelled, base=bed.half.model, rounds=_ROUNDS, training={"batch": BATCH, "learning_rate": 1.5e-3},
        first=(
            {"draw": {"count": _PROMPTS}}, {"sample": {"samples": 4}}, {"pair": {"chosen": "answer", "to": "known"}},
            {"train": {"of": "known", **dpo}},
        ),
        round=(
            {"draw": {"count": _PROMPTS}}, {"sample": {"samples": 4, "reward": "majority"}}, {"pair": {"to": "pairs"}},
            *chosen[how],
        ),
    )  # fmt: skip


def _reliable(bed: LearningBed, rate: float) -> Learned:
    """UPO; the steps of its estimators are not those of the model."""
    made = _pairs("reliable", bed, rate)
    kept = [mark["told"]["chosen"] for mark in _marks(made.out) if mark["stage"] == "reliable"]
    return replace(made, steps=made.steps - _ROUNDS * _ESTIMATOR).saying(pairs=float(np.mean(kept)))


def _as_many(bed: LearningBed, rate: float) -> Learned:
    """As many pairs as UPO keeps at this rate, drawn by lot."""
    count = round(_reliable(bed, rate).numbers["pairs"])
    return _pairs("some", bed, rate, count).saying(pairs=count)


def _marks(out: Path) -> list[dict[str, Any]]:
    from genepool.training.loops import read_loop_result

    found = read_loop_result(out)
    assert found is not None
    stages: list[dict[str, Any]] = found["stages"]
    return stages


# ---------------------------------------------------------------------- preferences that drift

#: Steps between two changes of mind, and how often it changes.
_PHASE, _PHASES, _FEW = 15, 4, 8


def _drifting(bed: LearningBed) -> Data:
    """Pairs as they arrive: the right answer is preferred to a copy, then the copy to it, and so on."""
    if "drifting" not in bed.shelf:
        lines = []
        examples = bed.examples("main", _PHASE * _PHASES * _FEW)
        for at, one in enumerate(examples):
            sides = (one.answer, one.answer[::-1])
            turned = (at // (_PHASE * _FEW)) % 2
            lines.append({"prompt": one.prompt, "chosen": sides[turned], "rejected": sides[1 - turned]})
        bed.shelf["drifting"] = bed.written("drifting", lines, len(lines))
    found: Data = bed.shelf["drifting"]
    return found


@contextmanager
def _as_they_arrive() -> Iterator[None]:
    """Inside, a step takes the next examples in the order of the file, each once."""

    def at(lessons: TrainingExamples, step: int, size: int) -> list[TrainingExample]:
        return list(lessons.train[step * size : (step + 1) * size])

    with patch.object(TrainingExamples, "at", at):
        yield


def _online(objective: str, bed: LearningBed, rate: float) -> Learned:
    """One pass; the loss of DPO on every pair when it arrives, which is the regret up to what is the same for all."""
    with _as_they_arrive():
        made = bed.learn(
            _drifting(bed), base=bed.half.model, objective=objective, steps=_PHASE * _PHASES, batch=_FEW,
            learning_rate=rate, schedule="constant",
        )  # fmt: skip
    with closing(sqlite3.connect(made.out / JOURNAL_FILE)) as journal:
        margins = np.array([margin for (margin,) in journal.execute("SELECT margin FROM examples")])
    return made.saying(loss=float(np.logaddexp(0, -margins).mean()), wrong=float((margins <= 0).mean()))


# ---------------------------------------------------------------------- preferences of two domains

_SECOND = "sort"


def _domain(bed: LearningBed, task: str) -> Data:
    """Pairs of a domain: the right answer is preferred to the input as it is."""
    if (name := f"pairs of {task}") not in bed.shelf:
        examples = bed.examples("less", task=task)
        lines = [
            {"prompt": one.prompt, "chosen": one.answer, "rejected": one.prompt.partition(":")[2].rstrip("=")}
            for one in examples
        ]
        bed.shelf[name] = bed.written(f"pairs-of-{task}", lines, len(lines), task=task)
    found: Data = bed.shelf[name]
    return found


def _fast(bed: LearningBed, task: str, rate: float, base: str = "") -> Learned:
    return bed.learn(_domain(bed, task), base=base, objective="fast_slow", learning_rate=rate)


def _mixed(bed: LearningBed, rate: float) -> Learned:
    """The fast factors of each domain, learned from the base, half of each."""
    made = [_fast(bed, task, rate) for task in (TARGET, _SECOND)]
    recipe = Recipe(method="task_arithmetic", base=bed.base_name, models=[one.model for one in made],
                    parameters={"lambda": 0.5})  # fmt: skip
    out = made[-1].out.parent / f"{made[-1].out.name}-mixed"
    merge(recipe, out)
    return Learned(str(out), sum(one.steps for one in made), labels=sum(one.labels for one in made))


def _last(bed: LearningBed, rate: float) -> Learned:
    """One set of fast factors after the other: what the last domain leaves."""
    first = _fast(bed, TARGET, rate)
    second = _fast(bed, _SECOND, rate, first.model)
    return replace(second, steps=first.steps + second.steps, labels=first.labels + second.labels)


_BOTH = (TARGET, _SECOND)
ARMS = (
    Arm("upo", f"known pairs, then {_ROUNDS} rounds of pairs by the majority that an estimator confirms",
        _reliable, _RATES),
    Arm("all pairs", "the same with all of these pairs", partial(_pairs, "all"), _RATES),
    Arm("random pairs", "the same with as many pairs as UPO keeps, drawn by lot", _as_many, _RATES),
    Arm("online dpo", "DPO from the half-known model on pairs that arrive once, and turn round every "
        f"{_PHASE} steps", partial(_online, "dpo"), _ONLINE),
    Arm("online fast-slow", "the same by fast-slow chasing", partial(_online, "fast_slow"), _ONLINE),
    Arm("fast-slow, mixed", f"fast-slow DPO on pairs of {TARGET} and on pairs of {_SECOND}, half of each adapter",
        _mixed, _RATES),
    Arm("fast-slow, last", "the same, one domain after the other", _last, _RATES),
)  # fmt: skip

_UPO, _QI = "Wang et al. 2024 (UPO)", "Qi et al. 2024 (online fast-slow DPO)"

CLAIMS = (
    LearningClaim(
        "upo-all", "Pairs that an estimator confirms beat all pairs", _UPO, ("upo", "all pairs"),
        target("upo", "all pairs"), better("UPO minus the same loop with all pairs, equally many steps (target)"),
        f"the estimator takes {_ESTIMATOR} further steps a round",
    ),
    LearningClaim(
        "upo-random", "Pairs that an estimator confirms beat as many at random", _UPO, ("upo", "random pairs"),
        target("upo", "random pairs"), better("UPO minus as many pairs drawn by lot, equally many steps (target)"),
    ),
    LearningClaim(
        "fast-slow-regret", "Fast-slow chasing regrets less where preferences drift", _QI,
        ("online fast-slow", "online dpo"), told(("online fast-slow", "loss"), ("online dpo", "loss")),
        less("the mean loss on pairs when they arrive, fast-slow minus DPO at the same rate"),
        "a model that prefers nothing loses 0.69: at this rate both lose more, and forget the skill",
    ),
    LearningClaim(
        "fast-slow-mix", "A mix of two domains' fast adapters beats the last adapter on both domains", _QI,
        ("fast-slow, mixed", "fast-slow, last"), scored("fast-slow, mixed", "fast-slow, last", _BOTH),
        better(f"half of each adapter minus the adapter of one domain after the other ({TARGET} and {_SECOND})"),
    ),
)  # fmt: skip
