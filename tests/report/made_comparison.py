"""A comparison without a model: outcomes drawn at given rates."""

from __future__ import annotations

from genepool import seeding
from genepool.measure import Gate, check_gates, compare
from genepool.report.comparison_page import Compared
from genepool.report.flips import ShownFlip
from genepool.tasks import Pairs

GATES = (
    Gate(task="each", at_least=-0.05),
    Gate(task="mean", measure="score", at_least=0.5),
    Gate(task="mean", measure="negative_flips", at_most=0.01),
    Gate(task="task1", measure="score", at_least=0.7),
)


def made_comparison(new: str = "models/new", tasks: int = 4) -> Compared:
    """The first task is much better, the second a little worse, the others alike."""
    pairs, flips = [], []
    for place in range(tasks):
        generator = seeding.numpy_generator(3, new, place)
        rates = {0: (0.2, 0.9), 1: (0.8, 0.72)}.get(place, (0.6, 0.6))
        old, late = ((generator.random(200) < rate).astype(float) for rate in rates)
        pairs.append(Pairs(f"task{place + 1}", old, late, generator.random(200) < 0.5))
        flips += [
            ShownFlip(f"task{place + 1}", f"example {i}", f"Say {i}.", f"{i}", f"{i} or so", f"{i}", i % 2 == 0)
            for i in range(3)
        ]
    comparison = compare("models/old", new, pairs)
    return Compared(comparison, tuple(check_gates(GATES, comparison)), tuple(flips))
