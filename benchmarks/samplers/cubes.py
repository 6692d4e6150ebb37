"""A world of cubes that unlock each other (Portelas et al. 2019): no model, only what a sampler draws and is told."""

from __future__ import annotations

from itertools import product

import numpy as np

from genepool.tasks.example import Example
from genepool.training.journal import ExampleRow
from genepool.training.samplers import Arms
from genepool.training.samplers.parameters import ParameterSampler

#: Draws until a cube is full; it is mastered, and unlocks its neighbours, from three quarters on.
_FULL, _MASTERED = 100, 75
#: Examples are points of a grid, so many for each side of a cube; and examples of a step.
_POINTS, _STEP = 5, 10


class Cubes:
    """A student: one corner is open, and every other cube once a neighbour nearer to that corner is mastered.

    Args:
        side: cubes along each of two parameters.
        corner: which corner is open first: 0 or 1 for each parameter.
    """

    def __init__(self, side: int, corner: tuple[int, int] = (0, 0)) -> None:
        self.side, self.corner = side, corner
        self.drawn = np.zeros((side, side), int)

    def score(self, point: np.ndarray) -> float:
        """Draws the cube of a point; how full it is then, from 0 to 1."""
        at = np.minimum((point * self.side).astype(int), self.side - 1)
        # As seen from the corner.
        x, y = (int(own) if not far else self.side - 1 - int(own) for own, far in zip(at, self.corner, strict=True))
        before = [(a, b) for a, b in product((x, max(0, x - 1)), (y, max(0, y - 1))) if (a, b) != (x, y)]
        if not before or any(self.drawn[one] >= _MASTERED for one in before):
            self.drawn[x, y] = min(self.drawn[x, y] + 1, _FULL)
        return float(self.drawn[x, y] / _FULL)

    @property
    def mastered(self) -> float:
        """The share of cubes that are mastered."""
        return float((self.drawn > _MASTERED).mean())


def arms_of(side: int, seed: int) -> Arms:
    """The points of a grid as examples."""
    count = side * _POINTS
    spots = [(at + 0.5) / count for at in range(count)]
    examples = [Example(f"{x}-{y}", f"{x} {y}", ("",), tags=(f"x={x}", f"y={y}")) for x, y in product(spots, spots)]
    return Arms(("cubes",), (len(examples),), seed, examples)


#: Between which ends the parameters are.
ENDS = {"x": (0.0, 1.0), "y": (0.0, 1.0)}


def trained(sampler: ParameterSampler | None, arms: Arms, world: Cubes, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """A student in so many episodes.

    Args:
        sampler: what draws; None: every point is as likely as any other.
        arms: its arms.
        world: the student.
        episodes: in steps of ten.

    Returns:
        What was drawn, (episodes, 2), and how full its cube was then, (episodes,).
    """
    points, scores = [], []
    places = {example.key: tuple(float(tag[2:]) for tag in example.tags) for example in arms.examples}
    for step in range(episodes // _STEP):
        drawn = (
            np.random.default_rng([arms.seed, step]).integers(len(arms.examples), size=_STEP)
            if sampler is None
            else sampler.places(step, _STEP)
        )
        rows = []
        for place in drawn.tolist():
            example = arms.examples[place]
            points.append(places[example.key])
            scores.append(world.score(np.array(points[-1])))
            rows.append(ExampleRow("cubes", example.key, 0.0, numbers={"reward": scores[-1]}))
        if sampler is not None:
            sampler.observe_rows(step, rows)
    return np.array(points), np.array(scores)
