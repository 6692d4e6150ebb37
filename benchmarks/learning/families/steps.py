"""EVOL-RL on sums of four digits, whose steps may come in any order: one answer, many right derivations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from random import Random
from typing import Any

import numpy as np

from benchmarks.claims.verdict import Contrast
from benchmarks.composition.cells import Cell
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import LABELS, PROMPTS, Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, better_and_equal, number
from genepool.seeding import derive
from genepool.tasks import Task, load_tasks
from genepool.tasks.network import Network
from genepool.training.examples import TrainingExample
from genepool.training.rewards.majority import answer_in
from genepool.training.samples import draw_samples

_TASK, _LONGEST = "sums", 24
#: Digits of a sum, and the largest one.
_DIGITS, _LARGEST = 4, 6
#: Derivations that the base is taught, how long it is taught at most, and from which share of right samples on it knows
#: enough to vote.
_TAUGHT, _MOST, _AT_ONCE, _ENOUGH = 4096, 900, 150, 0.4
#: Samples that vote and those that are learned from, as the paper's 64 and 32; steps; learning rates.
_VOTES, _TRAINED, _STEPS, _RATE = 16, 8, 20, 1e-3
#: Prompts that are asked, and answers to each.
_ASKED, _ANSWERS = 128, 16


def _derivation(digits: Sequence[int], draw: Random) -> str:
    """The digits added up one after the other, in an order that is drawn."""
    total, *others = draw.sample(digits, len(digits))
    steps = []
    for one in others:
        steps.append(f"{total}+{one}={total + one}")
        total += one
    return ";".join(steps)


def _lines(seed: int, split: str, count: int, answers: bool) -> list[dict[str, Any]]:
    """Prompts with a derivation, or with the right end of one; no prompt is in two splits."""
    draw = Random(derive(seed, _TASK, split))
    every = [digits for digits in product(range(1, _LARGEST + 1), repeat=_DIGITS) if _split_of(digits) == split]
    return [
        {
            "prompt": f"{' '.join(map(str, digits))}>",
            "answer": _derivation(digits, draw) if answers else f"={sum(digits)}",
        }
        for digits in draw.sample(every, min(count, len(every)))
    ]


def _split_of(digits: Sequence[int]) -> str:
    # By the sorted digits: a derivation of the same digits in another order would tell the answer.
    bucket = derive(0, "split", *sorted(digits)) % 10
    return "train" if bucket < 6 else "rewarded" if bucket < 8 else "test"


def _written(bed: LearningBed, name: str, lines: list[dict[str, Any]], metric: str) -> Data:
    data = bed.written(name, lines, len(lines), task=_TASK, test=lines[:1], like="reverse")
    (data.folder / "task.yaml").write_text(f"metric: {metric}\nmax_new_tokens: {_LONGEST}\n")
    return data


def _knowing(bed: LearningBed) -> Learned:
    """The base after so many steps on derivations that enough of its samples are right."""
    if "sums" not in bed.shelf:
        lines = _lines(bed.seed, "train", 700, answers=True)
        draw = Random(derive(bed.seed, _TASK, "orders"))
        more = [
            {**line, "answer": _derivation([int(one) for one in line["prompt"][:-1].split()], draw)}
            for _ in range(_TAUGHT // len(lines))
            for line in lines
        ]
        data, made, steps = _written(bed, "sums", more, "exact_match"), Learned(""), 0
        while steps < _MOST:
            made = bed.learn(
                data, base=made.model, form="full", steps=_AT_ONCE, batch=64, learning_rate=2e-3, schedule="constant"
            )
            steps += _AT_ONCE
            if _asked(bed, made.model, "rewarded").mean() > _ENOUGH:
                break
        bed.shelf["sums"] = Learned(made.model, steps)
    found: Learned = bed.shelf["sums"]
    return found


def _asked(bed: LearningBed, model: str, split: str) -> np.ndarray:
    """Whether each answer is right: shape (prompts, answers), 0 or 1."""
    if (name := f"sums asked {split}") not in bed.shelf:
        folder = _written(bed, f"sums-{split}-asked", _lines(bed.seed, split, _ASKED, answers=False), "contains").folder
        bed.shelf[name] = load_tasks(folder)[0]
    task: Task = bed.shelf[name]
    lessons = [TrainingExample(task, one) for one in task.examples("train")]
    asked = bed.source(model).load()
    assert isinstance(asked, Network)
    drawn = draw_samples(asked, lessons, _ANSWERS, 1.0, seed=bed.seed, step=-2)
    right = [float(answer_in(one.text, "=") == one.lesson.example.answer.strip("=")) for one in drawn]
    return np.array(right).reshape(-1, _ANSWERS)


def _rewarded(objective: str, reward: str, bed: LearningBed, rate: float) -> Learned:
    """Rewards without labels, on prompts of their own."""
    if "sums rewarded" not in bed.shelf:
        bed.shelf["sums rewarded"] = _written(
            bed, "sums-rewarded", _lines(bed.seed, "rewarded", LABELS, answers=False), "contains"
        )
    options = {"samples": _VOTES, "trained": _TRAINED, "reward": {reward: {"after": "="}}}
    made = bed.learn(
        bed.shelf["sums rewarded"], base=_knowing(bed).model, objective=objective, steps=_STEPS, batch=PROMPTS,
        learning_rate=rate, options=options,
    )  # fmt: skip
    return _told(bed, Learned(made.model, made.steps, made.generated))


def _told(bed: LearningBed, made: Learned) -> Learned:
    right = _asked(bed, made.model, "test")
    told = Learned("", made.steps, made.generated, marks={"sums@16": right.max(1)})
    return told.saying(**{"sums@1": float(right.mean())})


def _before(bed: LearningBed, _: float) -> Learned:
    return _told(bed, _knowing(bed))


def _more_at_equal(first: str, second: str) -> Any:
    def compare(cells: dict[str, Cell]) -> dict[str, Contrast]:
        ours, theirs = cells[first], cells[second]
        return {
            "main": Contrast.of([ours.scores["sums@16"]], [theirs.scores["sums@16"]]),
            "guard": Contrast(number(ours, "sums@1"), number(theirs, "sums@1"), ()),
        }

    return compare


ARMS = (
    Arm("sums", "the base after supervised steps on derivations of sums of four digits in any order; sums@k: the share "
        "of new sums that one of k samples solves", _before, (0.0,)),
    Arm("evol-rl, sums", f"EVOL-RL from there without labels: {_VOTES} samples vote, {_TRAINED} are learned from",
        partial(_rewarded, "evol_rl", "novelty"), (_RATE,)),
    Arm("majority, sums", "GRPO on the majority of as many samples, of which as many are learned from",
        partial(_rewarded, "grpo", "majority"), (_RATE,)),
)  # fmt: skip

CLAIMS = (
    LearningClaim(
        "evol-rl", "EVOL-RL keeps more ways to the answer than the majority alone, at an equal rate of right answers",
        "Zhou et al. 2025 (EVOL-RL)", ("evol-rl, sums", "majority, sums"),
        _more_at_equal("evol-rl, sums", "majority, sums"),
        better_and_equal("EVOL-RL minus GRPO on the majority (Pass@16)", "the same for Pass@1"),
        guards="Pass@1",
    ),
)  # fmt: skip
