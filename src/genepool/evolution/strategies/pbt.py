"""Population based training: a strategy over trainings that run side by side, the worst of which copy the best.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from genepool.evolution.strategies import Breeder, Count, Evidence, StrategyOptions, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.seeding import derive, numpy_generator

if TYPE_CHECKING:
    import numpy as np


class PbtOptions(StrategyOptions):
    """Options of population based training."""

    population: Count = Field(default=10, ge=2, description="Trainings side by side.")
    share: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="Part of the population that copies a model of the best part as large. 0: nobody copies, which is "
        "random search over the settings at equal steps.",
    )
    factors: tuple[float, float] = Field(
        default=(0.8, 1.2), description="One of these multiplies each setting that was copied."
    )
    rate: tuple[float, float] = Field(
        default=(1e-5, 1e-3), description="Range in which the learning rates begin, log-uniformly."
    )
    mix: bool = Field(
        default=False,
        description="Also vary how much each task counts in what a model learns: all weights begin between 1/4 and 4, "
        "log-uniformly, beside the study's own.",
    )

    @field_validator("factors", "rate")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < math.inf:
            raise ValueError(f"must be two positive numbers, the smaller one first, got {list(value)}")
        return value


@dataclass(frozen=True)
class PopulationMember:
    """One training of the population.

    Attributes:
        model: the name of its latest model: a child, or the founder that it began with.
        rate: its learning rate.
        mix: how much each task counts; empty where that is not varied.
        fitness: of its latest model; None before the first.
    """

    model: str
    rate: float
    mix: tuple[float, ...] = ()
    fitness: float | None = None


@register(
    "pbt",
    title="population based training",
    source="Jaderberg et al. 2017, arXiv:1711.09846: the worst 20% copy the best 20% (truncation selection), times "
    "0.8 or 1.2; a population of 10 and the ranges are our own",
    when="A learning rate, or a mix of tasks, is to be found while the model is trained: a schedule rather than a "
    "value. Needs `learn` in the study: its steps are those between two looks at the validation examples.",
)
class Pbt(Breeder[PbtOptions]):
    """A generation is one turn of every training: `learn.steps` steps, then the validation examples.

    A member that copies takes weights and settings of one of the best, and each setting times one of the factors. It
    goes on from there, as all others go on from where they are. What a population costs is the sum over its members:
    candidates times `learn.steps`. A model is its weights alone, so AdamW's moments begin anew with every turn, for
    copies and for all others alike.
    """

    trains = True

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: PbtOptions) -> None:
        super().__init__(founders, tasks, seed, options)
        self._members = [self._begun(place) for place in range(options.population)]
        self._next = list(self._members)

    def _begun(self, place: int) -> PopulationMember:
        """A member before its first turn; founders are shared out."""
        options = self.options
        generator = numpy_generator(self.seed, "pbt", "begin", place)
        low, high = map(math.log, options.rate)
        rate = math.exp(generator.uniform(low, high))
        weights = [float(4 ** generator.uniform(-1, 1)) for _ in self.tasks] if options.mix else []
        return PopulationMember(self.founders[place % len(self.founders)], rate, tuple(weights))

    def living(self) -> frozenset[str]:
        return frozenset(member.model for member in self._next) - set(self.founders)

    def collection(self) -> list[dict[str, Any]]:
        """The population, in the order of its members."""
        return [
            {"name": member.model, "group": "population", "scores": {"fitness": member.fitness}}
            for member in self._members
            if member.fitness is not None
        ]

    def _ask(self) -> list[Birth]:
        births = []
        for place, member in enumerate(self._next):
            learn = {"rate": member.rate, **({"mix": list(member.mix)} if member.mix else {})}
            # A seed of its own: two copies of one model do not learn from the same examples.
            seed = derive(self.seed, "pbt", "turn", self.generation, place)
            births.append(Birth("train", (member.model,), {"learn": learn}, seed))
        return births

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        import numpy as np

        told = set(succeeded(len(names), evidence).tolist())
        # A turn that failed leaves its member where it was.
        self._members = [
            PopulationMember(names[place], one.rate, one.mix, float(fitness[place])) if place in told else one
            for place, one in enumerate(self._next)
        ]
        self._next = list(self._members)
        count = int(self.options.share * len(names))
        if self.options.share:
            count = max(1, count)
        order = [int(place) for place in np.argsort(-fitness, kind="stable")]
        ranked = [place for place in order if place in told]
        best = ranked[:count]
        failed = [place for place in range(len(names)) if place not in told]
        worst = [place for place in [*ranked, *failed][-max(count, len(failed)) :] if place not in best]
        if not best:
            return
        for place in worst:
            generator = numpy_generator(self.seed, "pbt", "copy", self.generation, place)
            source = self._members[best[int(generator.integers(len(best)))]]
            factors = [self.options.factors[int(one)] for one in generator.integers(2, size=1 + len(source.mix))]
            mix = tuple(weight * factor for weight, factor in zip(source.mix, factors[1:], strict=True))
            self._next[place] = PopulationMember(source.model, source.rate * factors[0], mix)
