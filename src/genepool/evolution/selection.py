"""How populations choose: by roulette, by tournament, with elites. Shared by the strategies that breed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def proportional_probabilities(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values as probabilities, shape (n,): in proportion, shifted up where some are negative; all alike when all are 0.

    Accuracies are never negative, so in proportion is what they get.
    """
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    values = values - min(0.0, float(values.min()))
    total = float(values.sum())
    shares: np.ndarray = values / total if total > 0 else np.full(len(values), 1 / len(values))
    return shares


def roulette(generator: np.random.Generator, fitness: Sequence[float] | np.ndarray, count: int) -> list[int]:
    """`count` different places, drawn in proportion to fitness; of those with none only when others run out."""
    import numpy as np

    shares = proportional_probabilities(fitness)
    if np.count_nonzero(shares) < count:
        shares = (shares + 1e-12) / (shares + 1e-12).sum()
    return [int(i) for i in generator.choice(len(shares), size=count, replace=False, p=shares)]


def survivors(
    generator: np.random.Generator, fitness: Sequence[float], count: int, *, elites: int, tournament: int
) -> list[int]:
    """The elites, then winners of tournaments among the rest, nobody twice; places in order of fitness.

    Args:
        generator: draws the tournaments.
        fitness: of everyone.
        count: the number of survivors.
        elites: the number that survives without a tournament, the fittest.
        tournament: the number that competes for each place; 0 draws the places by roulette instead.
    """
    order = sorted(range(len(fitness)), key=lambda i: (-fitness[i], i))
    if len(order) <= count:
        return order
    kept = order[: min(count, elites)]
    rest = order[len(kept) :]
    if not tournament:
        kept += [rest[place] for place in roulette(generator, [fitness[i] for i in rest], count - len(kept))]
    while len(kept) < count:
        # `rest` is in order of fitness, so the first of those drawn wins.
        drawn = generator.choice(len(rest), size=min(tournament, len(rest)), replace=False)
        kept.append(rest.pop(int(min(drawn))))
    return sorted(kept, key=lambda i: (-fitness[i], i))
