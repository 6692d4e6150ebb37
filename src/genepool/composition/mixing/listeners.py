"""Who is told of the passes of a network whose lines want different skills: a skill, or weights, for every request.

`Network.listened` takes one while a question is answered. Used by `shared_network` and by routed models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch

from genepool.composition.mixing.attached import AttachedSkills
from genepool.composition.mixing.mixtures import ChosenSkills, Shares, SkillMixture


class MixtureByRequest(ABC):
    """A `PassListener` that gives attached skills the mixture of the lines of every pass.

    Args:
        attached: the skills.
    """

    def __init__(self, attached: AttachedSkills) -> None:
        self._attached = attached
        self._last: tuple[tuple[int, ...], SkillMixture] | None = None

    @abstractmethod
    def alike(self, request: int) -> Hashable:
        """See `PassListener.alike`."""

    @abstractmethod
    def mixture(self, requests: Sequence[int]) -> SkillMixture:
        """What lines of these requests get."""

    @contextmanager
    def passing(self, requests: Sequence[int]) -> Iterator[None]:
        """See `PassListener.passing`; a mixture stays as long as the lines do, while they are written."""
        lines = tuple(requests)
        if self._last is None or self._last[0] != lines:
            self._last = lines, self.mixture(lines)
        with self._attached.mixing(self._last[1]):
            yield


class SkillByRequest(MixtureByRequest):
    """One skill for each request.

    Args:
        attached: the skills.
        skills: of each request, the skill's number; -1 for the base alone.
    """

    def __init__(self, attached: AttachedSkills, skills: Sequence[int]) -> None:
        super().__init__(attached)
        self._skills = list(skills)

    def alike(self, request: int) -> Hashable:
        """See `PassListener.alike`."""
        return self._skills[request]

    def mixture(self, requests: Sequence[int]) -> SkillMixture:
        """See `MixtureByRequest.mixture`."""
        chosen = torch.tensor([self._skills[one] for one in requests], device=self._attached.device)
        return ChosenSkills(chosen, self._attached.skills)


class WeightsByRequest(MixtureByRequest):
    """A weight of every skill for each request.

    Args:
        attached: the skills.
        weights: (requests, skills).
    """

    def __init__(self, attached: AttachedSkills, weights: torch.Tensor) -> None:
        super().__init__(attached)
        self._weights = weights.to(attached.device)
        self._rows = [tuple(row) for row in weights.tolist()]

    def alike(self, request: int) -> Hashable:
        """See `PassListener.alike`."""
        return self._rows[request]

    def mixture(self, requests: Sequence[int]) -> SkillMixture:
        """See `MixtureByRequest.mixture`: one skill a line where each line has one whole skill at most."""
        weights = self._weights[torch.tensor(list(requests), device=self._attached.device)]
        whole = (weights == 1).any(1)
        if bool(((weights != 0).sum(1) == whole).all()):
            return ChosenSkills(torch.where(whole, weights.argmax(1), -1), self._attached.skills)
        return Shares(weights)
