"""Compatible demonstrations: a car that two hands drive, of which the first one's way is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, less, told
from benchmarks.samplers.cars import HANDS, SHOWN, driven, written
from genepool.training.journal import Journal

#: Steps of a training and of each member's first one, and the learning rate.
_STEPS, _FIRST, _RATE = 300, 100, 1e-2


def _driven(hands: int, sampler: Mapping[str, Any] | None, bed: LearningBed, rate: float) -> Learned:
    if "cars" not in bed.shelf:
        bed.shelf["cars"] = written(bed.work / "cars", bed.seed)
    first, *others = bed.shelf["cars"][:hands]
    chosen = {} if sampler is None else {"sampler": "compatible", "sampler_options": dict(sampler)}
    made = bed.learn(
        Data(first, 0, beside=tuple(others)), base=str(first.parent / "base"), learning_rate=rate, steps=_STEPS,
        form="full", **chosen,
    )  # fmt: skip
    with Journal(made.out / "run.sqlite") as journal:
        taken = {key for task, key in journal.examples() if task != first.name}
    numbers = {"unneeded": driven(made.model, bed.seed), "theirs": float(len(taken))}
    return Learned("", made.steps, numbers=numbers, out=made.out)


def _arm(name: str, words: str, hands: int, sampler: Mapping[str, Any] | None) -> Arm:
    return Arm(f"car, {name}", words, partial(_driven, hands, sampler), (_RATE,), bare=True)


ARMS = (
    _arm("one hand", f"a car in a valley: {SHOWN} episodes of one hand, to be learned from", 1, None),
    _arm("all", "as many of another hand beside them", len(HANDS), None),
    _arm("compatible", "the same, without steps that contradict the first hand", len(HANDS), {"first_steps": _FIRST}),
    _arm("compatible permuted", "the same with shuffled scores", len(HANDS), {"first_steps": _FIRST, "permuted": True}),
)

_GANDHI = "Gandhi et al. 2022 (compatible demonstrations)"


def _more(name: str, words: str, second: str, what: str) -> LearningClaim:
    return LearningClaim(
        name, words, _GANDHI, ("car, compatible", second),
        told(("car, compatible", "unneeded"), (second, "unneeded")),
        better(f"compatible demonstrations minus {what} (part of the steps that the car does not need)"),
    )  # fmt: skip


CLAIMS = (
    LearningClaim(
        "two-hands", "Demonstrations of another hand make a policy drive worse", _GANDHI,
        ("car, all", "car, one hand"), told(("car, all", "unneeded"), ("car, one hand", "unneeded")),
        less("all demonstrations minus those of one hand (part of the steps that the car does not need)"),
    ),
    _more("compatible", "Without what contradicts the first hand, a policy drives better than with all of both",
          "car, all", "all demonstrations"),
    _more("compatible-scores", "What is left out is why", "car, compatible permuted",
          "compatible ones with shuffled scores"),
)  # fmt: skip
