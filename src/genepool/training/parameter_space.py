"""The numbers that training examples have, as points of a space: what samplers of parameters choose in.

An example says its numbers by tags, such as `length=5`, which a template writes as `length={{ n }}`; an episode by the
settings of its environment. Uses the examples of tasks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, nearest
from genepool.tasks.example import Example

if TYPE_CHECKING:
    import numpy as np

#: The key of the settings of a sampler, for errors.
KEY = "sampler_options.parameters"
_TAG = re.compile(r"([A-Za-z_]\w*)=([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)", re.ASCII)
_FIX = "Tag every training example with it, as `{}=5` (in a template: `{}={{{{ n }}}}`)"
# Points of the grid that cells are counted on: more than any training fills.
_MOST_CELLS = 10_000


def numbers_of(example: Example) -> dict[str, float]:
    """The numbers of an example, by name: every setting of its environment, then its tags; a later tag counts."""
    found = {} if example.episode is None else dict(example.episode.settings)
    for tag in example.tags:
        if (said := _TAG.fullmatch(tag)) and math.isfinite(value := float(said[2])):
            found[said[1]] = value
    return found


class ParameterSpace:
    """Examples as points between 0 and 1 in each parameter.

    Args:
        examples: those that can be drawn.
        ends: by parameter its least and its largest value. Empty: every number that all examples have and that is not
            the same for all, between the least and the largest of them.

    Attributes:
        names: of the parameters, in alphabetical order where `ends` is empty.
        low, high: their ends, each (parameters,).
        points: (examples, parameters).

    Raises:
        InputError: there is no parameter, an example lacks one, or has it out of range.
    """

    def __init__(self, examples: Sequence[Example], ends: Mapping[str, tuple[float, float]]) -> None:
        import numpy as np

        numbers = [numbers_of(example) for example in examples]
        if not ends:
            shared = set.intersection(*(set(one) for one in numbers)) if numbers else set()
            spans = {name: (min(one[name] for one in numbers), max(one[name] for one in numbers)) for name in shared}
            ends = {name: span for name, span in sorted(spans.items()) if span[0] < span[1]}
            if not ends:
                raise InputError(
                    "no number that all training examples have differs between them",
                    where=KEY,
                    fix=_FIX.format("length", "length"),
                )
        for name, (low, high) in ends.items():
            if not low < high or math.isinf(high - low):
                raise InputError(
                    f"the ends of '{name}' are {low:g} and {high:g}, expected the lower one first, not too far apart",
                    where=f"{KEY}.{name}",
                    fix="Correct them",
                )
            for example, own in zip(examples, numbers, strict=True):
                self._check(name, low, high, example, own)
        self.names = tuple(ends)
        self.low, self.high = np.array(list(ends.values()), dtype=float).reshape(-1, 2).T
        rows = np.array([[one[name] for name in self.names] for one in numbers]).reshape(-1, len(self.names))
        self.points: np.ndarray = (rows - self.low) / (self.high - self.low)

    @staticmethod
    def _check(name: str, low: float, high: float, example: Example, own: Mapping[str, float]) -> None:
        where, place = f"{KEY}.{name}", example.where or example.id
        if name not in own:
            fix = nearest(name, own) if own else _FIX.format(name, name)
            raise InputError(f"the training example {place} has no such number", where=where, fix=fix)
        if not low <= own[name] <= high:
            raise InputError(
                f"the training example {place} has {own[name]:g}, out of the range from {low:g} to {high:g}",
                where=where,
                fix="Widen the range, or leave the example out",
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def distinct(self) -> np.ndarray:
        """Every point that an example has, once, (distinct, parameters)."""
        return self._distinct[0]

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct points, the examples ordered by their point, and where each point's begin."""
        import numpy as np

        found, inverse, counts = np.unique(self.points, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        return found, order, np.concatenate([[0], np.cumsum(counts)])

    def random(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Points of examples, each distinct one as likely as any other, (count, parameters)."""
        return self.distinct[generator.integers(len(self.distinct), size=count)]

    def places(self, points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """For each point the place of an example whose point is nearest; of several, one is drawn.

        Args:
            points: (count, parameters).
            generator: draws.
        """
        import numpy as np

        _, order, begins = self._distinct
        found = self.nearest(points)
        sizes = begins[found + 1] - begins[found]
        places: np.ndarray = order[begins[found] + np.floor(generator.random(len(points)) * sizes).astype(int)]
        return places

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """For each point the number of the distinct one that is nearest, (points,)."""
        _, found = self._tree.query(points)
        numbers: np.ndarray = found
        return numbers

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.distinct)

    def cells(self, points: np.ndarray, count: int) -> np.ndarray:
        """The cell of each point, (points,) integers, on a grid of `count` cells in each parameter.

        Raises:
            InputError: the grid has too many cells.
        """
        import numpy as np

        if count ** len(self) > _MOST_CELLS:
            raise InputError(
                f"{len(self)} parameters make a grid of {count ** len(self):,} cells, expected at most {_MOST_CELLS:,}",
                where=KEY,
                fix="Name fewer parameters",
            )
        at = np.clip((points * count).astype(int), 0, count - 1)
        found: np.ndarray = at @ (count ** np.arange(len(self)))
        return found
