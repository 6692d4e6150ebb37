"""UP-RLHF: rewards by an ensemble that differs, less where it disagrees, against one reward model and a plain ensemble.

What a reward model is worth is how far the true reward gets before the model has moved as far as others have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.claims.verdict import Contrast, better
from benchmarks.composition.cells import Cell
from benchmarks.learning.arm import LONG_RATES, Arm, rewarded
from benchmarks.learning.bed import STEPS, Data, Learned, LearningBed
from benchmarks.learning.claim import Compare, LearningClaim, number, told
from genepool.training.folder import JOURNAL_FILE
from genepool.training.journal import Journal
from genepool.training.reward_ensemble import RewardModelSource
from genepool.training.rewards import Rewards
from genepool.training.rewards.metric import judged
from genepool.training.samples import Sample

#: Reward models of an ensemble, and the learning rate of them all.
_MEMBERS, _RATE = 3, 1.5e-3
#: Steps that are looked at together, and pairs on which an ensemble's errors are measured.
_WINDOW, _ASKED = 5, 256


@dataclass(frozen=True)
class _Kind:
    """How the reward is learned."""

    words: str
    members: int
    diversity: float


_KINDS = {
    "one reward model": _Kind("GRPO from the half-known model on one reward model", 1, 0.0),
    "plain ensemble": _Kind(f"the same on {_MEMBERS} reward models, less where they disagree", _MEMBERS, 0.0),
    "up-rlhf": _Kind("the same, the reward models being held apart by the nuclear norm", _MEMBERS, 0.01),
}


def _pairs(bed: LearningBed) -> Data:
    """The right answer of each prompt against the base's own wrong one."""
    if "reward pairs" not in bed.shelf:
        found, tokens = bed.wrong
        lines = [{"prompt": one.prompt, "chosen": one.answer, "rejected": wrong} for one, wrong in found]
        bed.shelf["reward pairs"] = bed.written("reward-pairs", lines, len(lines), tokens, test=lines[:1])
    data: Data = bed.shelf["reward pairs"]
    return data


def _reward_model(bed: LearningBed, kind: _Kind) -> Path:
    """Its folder; every kind is trained for as many steps on the same pairs."""
    options = {"members": kind.members, "diversity": kind.diversity}
    return bed.learn(_pairs(bed), objective="reward_model", learning_rate=_RATE, options=options).out / "reward_model"


@contextmanager
def _true_rewards() -> Iterator[list[float]]:
    """Inside, the mean of the task's metric over the samples of every step is noted."""
    noted: list[float] = []
    of = Rewards.of

    def watched(rewards: Rewards, samples: Sequence[Sample], group: int) -> tuple[list[float], str]:
        noted.append(float(np.mean([judged(sample) for sample in samples])))
        return of(rewards, samples, group)

    with patch.object(Rewards, "of", watched):
        yield noted


def _by_reward_model(name: str, bed: LearningBed, rate: float) -> Learned:
    kind = _KINDS[name]
    folder = _reward_model(bed, kind)
    with _true_rewards() as true:
        made = bed.learn(
            bed.labelled, base=bed.half.model, learning_rate=rate,
            **rewarded({"reward_model": {"path": str(folder), "uncertainty": 1.0}}),
        )  # fmt: skip
    with Journal(made.out / JOURNAL_FILE) as journal:
        apart = [one["kl"] for one in journal.means().values()]
    numbers = {}
    for at in range(0, STEPS, _WINDOW):
        numbers[f"kl {at // _WINDOW + 1}"] = float(np.mean(apart[at : at + _WINDOW]))
        numbers[f"gold {at // _WINDOW + 1}"] = float(np.mean(true[at : at + _WINDOW]))
    if kind.members > 1:
        numbers["rank correlation"] = _rank_correlation(bed, folder)
    return made.saying(**numbers)


def _rank_correlation(bed: LearningBed, folder: Path) -> float:
    """Of the standard deviation of the members' margins and of how wrong their mean is, over new pairs."""
    from scipy.stats import spearmanr

    examples = bed.examples("new", _ASKED)
    drawn, _ = bed.drawn(bed.source(bed.half.model).load(), examples, 4, 1.0)
    asked = [
        (one, wrong)
        for one, texts in zip(examples, drawn, strict=True)
        if (wrong := next((text for text in texts if text.strip() and text.strip() != one.answer), None)) is not None
    ]
    judge = RewardModelSource(folder).load()
    prompts = [one.prompt for one, _ in asked]
    margins = judge.rewards(prompts, [one.answer for one, _ in asked]) - judge.rewards(prompts, [w for _, w in asked])
    errors = 1 / (1 + np.exp(margins.mean(0).numpy()))
    return float(spearmanr(margins.std(0, correction=0).numpy(), errors).statistic)


def _gold_at_equal_kl(first: str, second: str) -> Compare:
    """The true reward of two arms where both have moved as far as the one that moves less does at most."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        curves = [_curve(cells[arm]) for arm in (first, second)]
        reached = min(float(apart.max()) for apart, _ in curves)
        ours, theirs = (_gold_at(*curve, reached) for curve in curves)
        return {"main": Contrast(ours, theirs, ())}

    return compare


def _curve(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Divergence and true reward, window by window."""
    windows = range(1, STEPS // _WINDOW + 1)
    apart, gold = (np.array([number(cell, f"{name} {at}") for at in windows]) for name in ("kl", "gold"))
    return apart, gold


def _gold_at(apart: np.ndarray, gold: np.ndarray, reached: float) -> float:
    """The true reward where the divergence first reaches a value, on the line between two windows."""
    at = int(np.argmax(apart >= reached))
    if at == 0:
        return float(gold[0])
    part = (reached - apart[at - 1]) / (apart[at] - apart[at - 1])
    return float(gold[at - 1] + part * (gold[at] - gold[at - 1]))


ARMS = tuple(Arm(name, kind.words, partial(_by_reward_model, name), LONG_RATES) for name, kind in _KINDS.items())

_ZHAI = "Zhai et al. 2024 (UP-RLHF)"

CLAIMS = (
    LearningClaim(
        "up-rlhf-one", "An ensemble that differs gets further than one reward model", _ZHAI,
        ("up-rlhf", "one reward model"), _gold_at_equal_kl("up-rlhf", "one reward model"),
        better("UP-RLHF minus one reward model (true reward of the samples at equal divergence from the start)"),
    ),
    LearningClaim(
        "up-rlhf-plain", "An ensemble that differs gets further than one that is not held apart", _ZHAI,
        ("up-rlhf", "plain ensemble"), _gold_at_equal_kl("up-rlhf", "plain ensemble"),
        better("UP-RLHF minus a plain ensemble (true reward of the samples at equal divergence from the start)"),
    ),
    LearningClaim(
        "up-rlhf-unsure", "An ensemble disagrees where it is wrong", _ZHAI,
        ("up-rlhf",), told(("up-rlhf", "rank correlation"), 0.0),
        better("the rank correlation of the members' disagreement and their error over new pairs, minus 0,"),
        "pairs of a right answer and a wrong one of the half-known model",
    ),
)  # fmt: skip
