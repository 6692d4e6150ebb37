"""GENOME: a genetic algorithm whose individuals are the weights of models (or adapters) themselves.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from genepool.evolution.selection import proportional_probabilities, roulette, survivors
from genepool.evolution.strategies import Breeder, Count, Evidence, StrategyOptions, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.seeding import derive, numpy_generator

if TYPE_CHECKING:
    import numpy as np


class GenomeOptions(StrategyOptions):
    """Options of GENOME; the defaults are the paper's (Zhang et al. 2025), the rates those of the authors' code."""

    population: Count = Field(default=10, ge=2, description="Individuals that survive each generation.")
    crossover: float = Field(default=0.8, ge=0, le=1, description="Probability that each of population/2 pairs breeds.")
    mutation: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Probability that an individual leaves a mutated copy.",
    )
    mask: float = Field(default=0.1, gt=0, le=1, description="Share of the weights that a mutation moves.")
    sigma: float = Field(default=0.001, ge=0, description="Standard deviation of a mutation.")
    elite: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the population, rounded down, that survives without a tournament.",
    )
    tournament: Count = Field(default=3, ge=1, description="Individuals that compete for each place.")
    parents_too: bool = Field(default=False, description="Put the skills themselves into the first population.")


@dataclass(frozen=True)
class Individual:
    """One individual: what it is called and what it was worth."""

    name: str
    fitness: float


AnyGenome = TypeVar("AnyGenome", bound=GenomeOptions)


class Genetic(Breeder[AnyGenome]):
    """Selection, crossover and mutation of whole models, for GENOME and for what extends it."""

    fewest = 2

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: AnyGenome) -> None:
        super().__init__(founders, tasks, seed, options)
        self._members: list[Individual] = []

    def living(self) -> frozenset[str]:
        return frozenset(member.name for member in self._members)

    def collection(self) -> list[dict[str, Any]]:
        """The population."""
        return [{"name": m.name, "group": "population", "scores": {"fitness": m.fitness}} for m in self._members]

    def _ask(self) -> list[Birth]:
        generator = numpy_generator(self.seed, "genome", self.generation)
        return self._first(generator) if not self._members else self._offspring(generator, self._members)

    def _first(self, generator: np.random.Generator) -> list[Birth]:
        options = self.options
        births = [Birth("copy", (name,)) for name in self.founders] if options.parents_too else []
        pairs = list(itertools.combinations(self.founders, 2))
        drawn: list[tuple[str, str]] = []
        # Every pair once before any comes again, at shares u1 / (u1 + u2), as in the authors' code.
        for number in range(max(0, options.population - len(births))):
            if number % len(pairs) == 0:
                drawn += [pairs[int(i)] for i in generator.permutation(len(pairs))]
            shares = 1.0 - generator.random(2)
            births.append(Birth("mix", drawn[number], {"weights": (shares / shares.sum()).tolist()}))
        return births

    def _offspring(self, generator: np.random.Generator, members: Sequence[Individual]) -> list[Birth]:
        """Children of pairs and mutated copies; one at least."""
        options = self.options
        fitness = [member.fitness for member in members]
        births: list[Birth] = []
        for _ in range(len(members) // 2):
            if generator.random() < options.crossover:
                pair = roulette(generator, fitness, 2)
                shares = proportional_probabilities([fitness[i] for i in pair])
                births.append(
                    Birth("mix", tuple(members[i].name for i in pair), {"weights": [float(share) for share in shares]})
                )
        mutable = [member.name for member in members] + [f"{self.generation}.{i}" for i in range(len(births))]
        chosen = [name for name in mutable if generator.random() < options.mutation]
        if not births and not chosen:
            chosen = [members[0].name]
        return births + [self._mutated(name, f"{len(births) + i}") for i, name in enumerate(chosen)]

    def _mutated(self, name: str, place: str) -> Birth:
        options = self.options
        seed = derive(self.seed, "genome", "mutation", self.generation, place)
        return Birth("mutate", (name,), {"rate": options.mask, "sigma": options.sigma}, seed)

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        options = self.options
        everyone = self._members + [Individual(names[i], float(fitness[i])) for i in succeeded(len(names), evidence)]
        if not everyone:
            return
        generator = numpy_generator(self.seed, "genome", "selection", self.generation)
        kept = survivors(
            generator,
            [member.fitness for member in everyone],
            options.population,
            elites=int(options.elite * options.population),
            tournament=options.tournament,
        )
        self._members = [everyone[i] for i in kept]


@register(
    "genome",
    title="GENOME",
    source="Zhang et al. 2025, arXiv:2503.01155 (GENOME): population 10, mask 0.1, sigma 0.001, elite 10%, tournaments "
    "of 3; crossover 0.8 and mutation 0.1 from the authors' program and script",
    when="Many adapters or fine-tunes and some hundred evaluations: breeds the weights themselves.",
)
class Genome(Genetic[GenomeOptions]):
    """The first generation merges pairs of skills at random shares, each pair once before any comes again.

    Every later one crosses pairs drawn by roulette, each parent weighted by its fitness, and adds mutated copies;
    elites and winners of tournaments survive.
    """
