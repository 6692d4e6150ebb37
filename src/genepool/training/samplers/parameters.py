"""Samplers that choose the parameters of examples: the part that they share.

Each proposes points of the space of `parameter_space` for the examples of a step, and observes how well each example
went. What is proposed depends on the seed, the step, and what was observed.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.seeding import numpy_generator
from genepool.training.parameter_space import ParameterSpace
from genepool.training.samplers import PlaceSampler, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from genepool.training.journal import ExampleRow


class ParameterOptions(SamplerOptions):
    """Options of a sampler of parameters."""

    permuted: bool = Field(
        default=False,
        description="The control: what was observed of the examples of a step is shuffled among them, anew in each "
        "step; with mbtl, the scores of contexts are shuffled among them.",
    )
    parameters: dict[str, tuple[float, float]] = Field(
        default={},
        description="What is chosen, and between which ends, such as {length: [2, 8]}: numbers that every training "
        "example has, by a tag like length=5; empty: every such number, between its least and its largest value.",
    )


class ParameterSampler(PlaceSampler):
    """Proposes points; the examples that are nearest to them make the step.

    Class attributes:
        observed: what is observed of an example: its score, which is the mean reward of its samples, or where nothing
            is rewarded exp(-loss), the mean chance of a token; or its risk, which is the loss, or the reward less.

    Attributes:
        space: of the parameters.
    """

    needs = "loss or reward"
    Options = ParameterOptions
    options: Any
    observed: Literal["score", "risk"] = "score"

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self.space = ParameterSpace(arms.examples, self.options.parameters)
        self._points = dict(zip((one.key for one in arms.examples), self.space.points, strict=True))

    @cached_property
    def known(self) -> str:
        """SHA-256, hex, of the numbers of the examples, which are tags and so no part of them."""
        total = hashlib.sha256("\x1f".join(self.space.names).encode())
        for part in (self.space.low, self.space.high, self.space.points):
            total.update(part.tobytes())
        return total.hexdigest()

    @abstractmethod
    def points(self, step: int, size: int) -> np.ndarray:
        """What is proposed for a step, (size, parameters) between 0 and 1.

        Args:
            step: counted from 0.
            size: examples in the step.
        """

    @abstractmethod
    def learn(self, step: int, points: np.ndarray, values: np.ndarray) -> None:
        """Takes in how the examples of a step went.

        Args:
            step: counted from 0.
            points: (examples, parameters) between 0 and 1.
            values: (examples,), as `observed` says.
        """

    def places(self, step: int, size: int) -> np.ndarray:
        return self.space.places(self.points(step, size), self.generator("examples", step))

    def generator(self, *names: str | int) -> np.random.Generator:
        """A generator of its own for these names and the seed."""
        return numpy_generator(self.arms.seed, "sampler", self.name, *names)

    def observe_rows(self, step: int, rows: Sequence[ExampleRow]) -> None:
        points, values = self.evidence(rows)
        if self.options.permuted:
            values = values[numpy_generator(self.arms.seed, "permuted", step).permutation(len(values))]
        if len(values):
            self.learn(step, points, values)

    def means(self, rows: Sequence[ExampleRow]) -> dict[str, float]:
        """Of each parameter the mean over the examples, or samples, on record; nothing where none is known.

        Args:
            rows: of one or more steps.
        """
        import numpy as np

        points = [self._points[row.example] for row in rows if row.example in self._points]
        if not points:
            return {}
        means = self.space.low + np.mean(points, axis=0) * (self.space.high - self.space.low)
        return dict(zip(self.space.names, means.tolist(), strict=True))

    def evidence(self, rows: Sequence[ExampleRow]) -> tuple[np.ndarray, np.ndarray]:
        """Points and values of the examples on record; what is no number, and examples of other tasks, are left out.

        Args:
            rows: examples, or samples, of which those of one prompt have one key.
        """
        import numpy as np

        rewards: dict[str, list[float]] = {}
        found: list[tuple[str, float]] = []
        for row in rows:
            if row.example not in self._points:
                continue
            if (reward := row.numbers.get("reward")) is not None:
                if math.isfinite(reward):
                    rewards.setdefault(row.example, []).append(reward)
            elif math.isfinite(row.loss):
                found.append((row.example, row.loss if self.observed == "risk" else math.exp(-row.loss)))
        sign = -1 if self.observed == "risk" else 1
        found += [(key, sign * sum(own) / len(own)) for key, own in rewards.items()]
        points = np.array([self._points[key] for key, _ in found]).reshape(-1, len(self.space))
        return points, np.array([value for _, value in found])
