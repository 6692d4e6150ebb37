"""How much of which skill the lines of a pass get: one skill each, shares of all, or what a router says of each layer.

A mixture is made for the lines of a batch and kept while they are written, so what it takes out of a layer's factors it
takes once. Used by `attached`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch

from genepool.composition.mixing.layer_factors import LayerFactors, Own, Way

#: Says what the skills weigh in a layer: its name and its input, (lines, tokens, inputs) -> (lines, skills) or (lines,
#: tokens, skills).
LayerRouter: TypeAlias = Callable[[str, torch.Tensor], torch.Tensor]


class SkillMixture(ABC):
    """How much of each skill the lines of a pass get.

    Attributes:
        lines: how many lines the pass must have; None for any.
    """

    lines: int | None = None

    @abstractmethod
    def added(self, name: str, layer: LayerFactors, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What a layer gives with the skills.

        Args:
            name: of the layer's matrix.
            layer: the factors.
            x: the layer's input, (lines, tokens, inputs).
            output: what it gives without them, (lines, tokens, outputs); it may be written into where no gradient is
                asked for.
        """

    @abstractmethod
    def weights(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The weights of the skills where a tensor is used, (lines, 1 or tokens, skills).

        Args:
            name: the tensor.
            x: what it is used on, (lines, tokens, inputs).
        """


class ChosenSkills(SkillMixture):
    """One skill a line.

    Args:
        skills: a skill's number for each line, -1 for the base alone, (lines,), int64.
        count: how many skills there are.
        way: how it is computed; the cheapest way when None.
    """

    def __init__(self, skills: torch.Tensor, count: int, way: Way | None = None) -> None:
        self.skills, self.lines, self._way = skills, len(skills), way
        self._one_hot = torch.nn.functional.one_hot(skills + 1, count + 1)[:, None, 1:]
        self._own: dict[str, Own] = {}
        self._columns: dict[str, torch.Tensor] = {}
        self._ways: dict[tuple[str, int], Way] = {}
        self._spans: list[tuple[int, torch.Tensor | slice]] = []
        self.together = True
        for skill in dict.fromkeys(skills.tolist()):
            if skill < 0:
                continue
            places = (skills == skill).nonzero().flatten()
            first, last = int(places[0]), int(places[-1])
            alone = last - first + 1 == len(places)
            self.together &= alone
            self._spans.append((skill, slice(first, last + 1) if alone else places))

    def added(self, name: str, layer: LayerFactors, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.added`."""
        if not self._spans:
            return output
        way = self._way or self._cheapest(name, layer, x.shape[1])
        if way == "sliced":
            return layer.sliced(output, x, self._spans)
        if way == "gathered":
            if (own := self._own.get(name)) is None:
                own = self._own[name] = layer.own(self.skills)
            return layer.gathered(output, x, own)
        if (columns := self._columns.get(name)) is None:
            columns = self._columns[name] = layer.columns(self._one_hot)
        return layer.side_by_side(output, x, self._one_hot, columns)

    def weights(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.weights`."""
        return self._one_hot

    def _cheapest(self, name: str, layer: LayerFactors, tokens: int) -> Way:
        if (way := self._ways.get((name, tokens))) is None:
            way = layer.cheapest(len(self.skills), tokens, len(self._spans), together=self.together)
            self._ways[name, tokens] = way
        return way


class Shares(SkillMixture):
    """Every line has a weight for each skill, the same in all layers.

    Args:
        weights: (lines, skills), or (lines, tokens, skills) for a pass of so many tokens.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights, self.lines = weights if weights.dim() == 3 else weights.unsqueeze(1), len(weights)
        self._columns: dict[str, torch.Tensor] = {}

    def added(self, name: str, layer: LayerFactors, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.added`."""
        if (columns := self._columns.get(name)) is None:
            columns = self._columns[name] = layer.columns(self._weights)
        return layer.side_by_side(output, x, self._weights, columns)

    def weights(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.weights`."""
        return self._weights


class ByLayer(SkillMixture):
    """A router decides in every layer, from its input.

    Args:
        router: see `LayerRouter`.
    """

    def __init__(self, router: LayerRouter) -> None:
        self.router = router

    def added(self, name: str, layer: LayerFactors, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.added`."""
        weights = self.weights(name, x)
        return layer.side_by_side(output, x, weights, layer.columns(weights))

    def weights(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """See `SkillMixture.weights`."""
        found = self.router(name, x)
        return found if found.dim() == 3 else found.unsqueeze(1)
