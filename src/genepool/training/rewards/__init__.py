"""How good is what a model wrote: one file of this folder for each reward, found by being there.

A reward looks at all samples of one prompt together. One that fails for a sample, by raising or by NaN, leaves that
sample out; the trainer counts them and ends a training where most of a step fails. Uses tasks and samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from genepool.errors import InputError, nearest, one_line
from genepool.folder_classes import classes_of
from genepool.training.samples import Sample

FAILED = math.nan


class Reward(ABC):
    """How good some samples are.

    Attributes:
        name: what `reward` calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        follows_majority: whether samples are good for being like the others, which must be right for that.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    follows_majority: ClassVar[bool] = False

    @abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[float]:
        """A number for each sample of one prompt, the higher the better; NaN where it cannot tell.

        Raises:
            Exception: it failed for all of them.
        """


class Rewards:
    """A weighted sum of rewards.

    Args:
        named: a reward, or several with their weights.

    Raises:
        InputError: there is none of that name, or none is named.
    """

    def __init__(self, named: str | Mapping[str, float]) -> None:
        weights = {named: 1.0} if isinstance(named, str) else dict(named)
        if not weights:
            raise InputError("no reward is named", where="reward", fix=f"Name one: {', '.join(rewards())}")
        self._parts = [(find_reward(name), weight) for name, weight in weights.items()]

    @property
    def follows_majority(self) -> bool:
        """Whether one of them does."""
        return any(reward.follows_majority for reward, _ in self._parts)

    def of(self, samples: Sequence[Sample], group: int) -> tuple[list[float], str]:
        """The reward of each sample, and why the first one failed that did.

        Args:
            samples: one prompt's after another's.
            group: samples of each prompt.
        """
        found: list[float] = []
        why = ""
        for start in range(0, len(samples), group):
            part = samples[start : start + group]
            total = [0.0] * len(part)
            for reward, weight in self._parts:
                try:
                    scores = reward.score(part)
                except Exception as error:
                    why = why or f"{reward.name}: {one_line(error)}"
                    scores = [FAILED] * len(part)
                total = [before + weight * score for before, score in zip(total, scores, strict=True)]
            found += [value if math.isfinite(value) else FAILED for value in total]
        if not why and any(map(math.isnan, found)):
            why = "its value is no finite number"
        return found, why

    def measured_majority(self, samples: Sequence[Sample], group: int) -> float:
        """The share of prompts whose most frequent answer is right by the task's metric (maj@group)."""
        from genepool.training.rewards.majority import most_frequent
        from genepool.training.rewards.metric import judged

        groups = [samples[start : start + group] for start in range(0, len(samples), group)]
        return sum(judged(most_frequent(part)) == 1 for part in groups) / len(groups)


def rewards() -> dict[str, Reward]:
    """Every reward by name."""
    return {kind.name: kind() for kind in sorted(classes_of(__name__, Reward), key=lambda kind: kind.name)}


def find_reward(name: str) -> Reward:
    """The reward of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = rewards()
    if name not in known:
        raise InputError(f"there is no reward '{name}'", where="reward", fix=nearest(name, known))
    return known[name]
