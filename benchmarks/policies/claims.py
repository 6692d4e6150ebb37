"""What is claimed of compositions of policies; the rules were written before the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.verdict import Contrast, Figure, Rule, better
from genepool.testbed.policies.worlds import DEFAULT_WORLDS, LANDERS

#: The scores of an arm by task.
Scores = Mapping[str, list[float]]
OPEN = "not decided yet"
SEEDS = 5
# The share of its score that the first task may lose while others are learned.
_LOST = 0.05


@dataclass(frozen=True)
class PolicyClaim:
    """One claim.

    Attributes:
        name, words, source: of the claim.
        first, second: the arms.
        tasks: whose mean scores are compared.
        rule: when it holds.
        relative: differences are shares of the second arm's score.
    """

    name: str
    words: str
    source: str
    first: str
    second: str
    tasks: tuple[str, ...]
    rule: Rule
    relative: bool = False

    def figure(self, cells: Mapping[tuple[int, str], Scores]) -> tuple[Figure | None, int]:
        """The figure over the seeds that have both arms, and how many these are; None of fewer than two."""
        contrasts = []
        for seed in range(SEEDS):
            if (seed, self.first) in cells and (seed, self.second) in cells:
                means = [
                    float(np.mean([np.mean(cells[seed, arm][task]) for task in self.tasks]))
                    for arm in (self.first, self.second)
                ]
                scale = means[1] if self.relative else 1.0
                # Returns are no marks of right or wrong: the seeds alone make the interval.
                contrasts.append(Contrast(means[0] / scale, means[1] / scale, ()))
        return (Figure.of(contrasts) if len(contrasts) > 1 else None), len(contrasts)

    def verdict(self, cells: Mapping[tuple[int, str], Scores]) -> str:
        """Whether it holds; it is open until every seed is there."""
        figure, seeds = self.figure(cells)
        return self.rule.verdict({"main": figure}) if figure is not None and seeds == SEEDS else OPEN


def _keeps(what: str) -> Rule:
    words = f"the interval of {what}, as a share of the score after the first task, is above -{_LOST}"
    return Rule(words, lambda figures: figures["main"].lo > -_LOST, wants_more=False)


_FIRST, _LANDERS = DEFAULT_WORLDS[:1], tuple(LANDERS)
CLAIMS = (
    PolicyClaim(
        "psec", "Skills mixed in their parameters beat skills mixed in their actions", "PSEC, Liu et al. 2025",
        "psec", "psec, actions mixed", DEFAULT_WORLDS, better("psec less actions mixed on the four poles"),
    ),
    PolicyClaim(
        "psec-context", "Weights that depend on the state beat constant ones", "PSEC, Liu et al. 2025",
        "psec", "psec, constant", DEFAULT_WORLDS, better("psec less constant weights on the four poles"),
    ),
    PolicyClaim(
        "psec-merge", "PSEC beats the best static sum", "ours",
        "psec", "best static sum", DEFAULT_WORLDS, better("psec less the best static sum on the four poles"),
    ),
    PolicyClaim(
        "l2m", "L2M keeps the first task while it learns three more", "L2M, Schmied et al. 2023",
        "l2m", "l2m after one task", _FIRST, _keeps("the first task after four tasks less after one"), True,
    ),
    PolicyClaim(
        "cotasp", "CoTASP keeps the first task while it learns three more", "CoTASP, Yang et al. 2023",
        "cotasp", "cotasp after one task", _FIRST, _keeps("the first task after four tasks less after one"), True,
    ),
    PolicyClaim(
        "psec-landers", "Skills mixed in their parameters beat skills mixed in their actions", "PSEC, Liu et al. 2025",
        "landers: psec", "landers: psec, actions mixed", _LANDERS,
        better("psec less actions mixed on the landers with two rewards"),
    ),
    PolicyClaim(
        "psec-landers-context", "Weights that depend on the state beat constant ones", "PSEC, Liu et al. 2025",
        "landers: psec", "landers: psec, constant", _LANDERS,
        better("psec less constant weights on the landers with two rewards"),
    ),
    PolicyClaim(
        "psec-landers-merge", "PSEC beats the best static sum", "ours",
        "landers: psec", "landers: best static sum", _LANDERS,
        better("psec less the best static sum on the landers with two rewards"),
    ),
)  # fmt: skip
