"""GENOME+: GENOME whose individuals also learn from the best of them, as a swarm of particles.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.selection import survivors
from genepool.evolution.strategies import Count, Evidence, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.evolution.strategies.genome import Genetic, GenomeOptions, Individual
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class GenomePlusOptions(GenomeOptions):
    """Options of GENOME+; the defaults are the paper's (Zhang et al. 2025), else those of the authors' code."""

    mutation: float = Field(
        default=0.3, ge=0, le=1, description="Probability that an individual leaves a mutated copy."
    )
    tournament: Count = Field(
        default=0,
        ge=0,
        description="Individuals that compete for each place; 0 draws survivors by roulette, as the authors do.",
    )
    largest: Count = Field(default=20, ge=2, description="Selection begins above this number of individuals.")
    one_draw: bool = Field(
        default=False, description="Draw the random factors of the pulls once a run, as the authors' code does."
    )
    inertia: float = Field(default=0.2, ge=0, description="Inertia: pull in the direction of the last step.")
    own: float = Field(default=0.2, ge=0, description="Pull towards the individual's own best.")
    best: float = Field(default=0.2, ge=0, description="Pull towards the best of all.")
    worst: float = Field(default=0.1, ge=0, description="Push away from the worst of all.")
    step: float = Field(default=0.5, gt=0, description="Length of the first step.")
    decay: float = Field(default=0.95, gt=0, le=1, description="Factor of the step in each generation.")
    decay_each: bool = Field(
        default=False, description="Shorten the step before every individual that moves, as the authors' code does."
    )


@dataclass(frozen=True)
class Particle(Individual):
    """An individual that moves.

    Attributes:
        own_best: the model it was when it did best, and how well that was.
        velocity: (to, from, scale): it goes the way from one model to the other, divided by `scale`.
    """

    own_best: Individual
    velocity: tuple[str, str, float]


@register(
    "genome_plus",
    title="GENOME+",
    source="Zhang et al. 2025, arXiv:2503.01155 (GENOME+): inertia, own and best 0.2, worst 0.1, step 0.5, decay 0.95 "
    "a generation; population 10 to 20; particle swarm of Feng et al. 2024, arXiv:2410.11163",
    when="As genome, with twice the evaluations a generation: individuals also move towards the best.",
)
class GenomePlus(Genetic[GenomePlusOptions]):
    """Generations take turns: one moves every individual as a particle, the next breeds as GENOME does.

    A particle's velocity is a difference of models, so every move is a weighted sum of models whose weights sum to 1.
    """

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: GenomePlusOptions) -> None:
        super().__init__(founders, tasks, seed, options)
        self._swarm: list[Particle] = []
        self._best: Individual | None = None
        self._worst: Individual | None = None
        # Generations of moves, and moves of individuals in them.
        self._moves, self._turns = 0, 0

    def living(self) -> frozenset[str]:
        names = {member.name for member in (self._best, self._worst) if member is not None}
        for one in self._swarm:
            names |= {one.name, one.own_best.name, one.velocity[0], one.velocity[1]}
        return frozenset(names - set(self.founders))

    def collection(self) -> list[dict[str, Any]]:
        return [{"name": one.name, "group": "population", "scores": {"fitness": one.fitness}} for one in self._swarm]

    def _ask(self) -> list[Birth]:
        generator = numpy_generator(self.seed, "genome_plus", self.generation)
        if not self._swarm:
            return self._first(generator)
        if self.generation % 2:
            return [self._moved(generator, one, self._step(place)) for place, one in enumerate(self._swarm)]
        return self._offspring(generator, self._swarm)

    def _step(self, place: int) -> float:
        """The length of the step of one individual of this generation."""
        options = self.options
        shortened = self._turns + place + 1 if options.decay_each else self._moves
        # Never zero: what was gone is divided by it.
        return float(max(options.step * options.decay**shortened, 1e-300))

    def _moved(self, generator: np.random.Generator, one: Particle, step: float) -> Birth:
        options = self.options
        assert self._best is not None
        assert self._worst is not None
        draws = numpy_generator(self.seed, "genome_plus", "pulls") if options.one_draw else generator
        pulls = draws.random(4) * [options.inertia, options.own, options.best, options.worst]
        # Model swarms divide by the sum, so that a step is as long whatever was drawn; all zero means to stay.
        inertia, own, best, worst = pulls / pulls.sum() if pulls.sum() else pulls
        to, origin, scale = one.velocity
        weights: dict[str, float] = {}
        for name, weight in (
            (one.name, 1 - step * (own + best - worst)),
            (to, step * inertia / scale),
            (origin, -step * inertia / scale),
            (one.own_best.name, step * own),
            (self._best.name, step * best),
            (self._worst.name, -step * worst),
        ):
            weights[name] = weights.get(name, 0.0) + float(weight)
        pulling = {name: weight for name, weight in weights.items() if weight or name == one.name}
        return Birth("mix", tuple(pulling), {"weights": list(pulling.values())})

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        options = self.options
        moving = bool(self._swarm) and bool(self.generation % 2)
        places = [int(i) for i in succeeded(len(names), evidence)]
        born = [Individual(names[i], float(fitness[i])) for i in places]
        if not born:
            self._ended(moving)
            return
        self._best = max([*born, *([self._best] if self._best else [])], key=lambda member: member.fitness)
        self._worst = min([*born, *([self._worst] if self._worst else [])], key=lambda member: member.fitness)
        if moving:
            # Whoever did not get there stays where it was.
            for place, member in zip(places, born, strict=True):
                self._swarm[place] = _arrived(self._swarm[place], member, self._step(place))
            self._ended(moving)
            return
        generator = numpy_generator(self.seed, "genome_plus", "velocity", self.generation)
        everyone: list[Individual] = [*self._swarm, *born]
        for member in born:
            other = everyone[int(generator.integers(len(everyone)))]
            self._swarm.append(Particle(member.name, member.fitness, member, (other.name, member.name, 1.0)))
        if len(self._swarm) > options.largest:
            kept = survivors(
                generator,
                [one.fitness for one in self._swarm],
                options.largest,
                # Of all there are, rounded: GENOME's share is of the population.
                elites=round(options.elite * len(self._swarm)),
                tournament=options.tournament,
            )
            self._swarm = [self._swarm[i] for i in kept]

    def _ended(self, moving: bool) -> None:
        """Counts a generation of moves."""
        if moving:
            self._moves += 1
            self._turns += len(self._swarm)


def _arrived(one: Particle, member: Individual, step: float) -> Particle:
    best = member if member.fitness > one.own_best.fitness else one.own_best
    return replace(one, name=member.name, fitness=member.fitness, own_best=best, velocity=(member.name, one.name, step))
