"""Whether intervals cover what they promise, tests hold their level, and races keep the best: by simulation.

`python -m benchmarks.measure.coverage [--draws 2000]` draws scores of which the truth is known, over and over, and
counts. Nothing is asked of a model; it takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from genepool import seeding
from genepool.measure import (
    holm,
    macro_interval,
    macro_paired_bootstrap,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    wilson,
)
from genepool.measure.racing import Race

Scores = NDArray[np.float64]
HEADS = ["what", "of", "promised", "found", "± (two errors)"]


def rows(draws: int) -> Iterator[list[str]]:
    """The lines of the table."""
    for n in (20, 100, 500):
        for p in (0.5, 0.9, 0.98):
            yield covered("Wilson interval", f"{n} items, {p:.0%} right", draws, p, partial(_share, n=n, p=p))
    for n in (30, 200):
        yield covered("bootstrap of a mean", f"{n} graded scores", draws, 2 / 7, partial(_graded, n=n))
    for rights in ((0.5, 0.9, 0.98), (0.98, 0.98, 0.98)):
        of = f"tasks of 50, 100 and 400, {', '.join(f'{p:.0%}' for p in rights)} right"
        yield covered("mean over tasks (MOVER)", of, draws, sum(rights) / 3, partial(_macro, rights=rights))
    for n in (50, 300):
        for moved in (0.0, 0.05):
            of = f"{n} pairs, a fifth flips, truth {moved:+.2f}"
            yield covered("paired bootstrap", of, draws, moved, partial(_differ, sizes=[n], moved=moved))
    sizes = [50, 100, 400]
    yield covered("paired bootstrap, macro", "tasks of 50, 100 and 400", draws, 0.0, partial(_differ, sizes=sizes))
    for n in (50, 300):
        of = f"{n} pairs, a fifth flips"
        yield wrong("exact McNemar at 5%", of, draws, partial(_mcnemar_errs, n=n))
        yield wrong("bootstrap test at 5%", of, draws, partial(_bootstrap_errs, n=n))
    yield wrong("Holm over 12 McNemar tests", "any false discovery at 5%", draws, _family_errs)
    for spread, of in ((0.0, "eight alike"), (0.03, "eight a point or two apart"), (0.3, "eight far apart")):
        yield from raced(f"{of}, 400 items", draws // 4, spread)


def covered(
    what: str, of: str, draws: int, truth: float, drawn: Callable[[np.random.Generator], tuple[float, float]]
) -> list[str]:
    """How often an interval holds the truth."""
    hits = 0
    for number in range(draws):
        low, high = drawn(seeding.numpy_generator(0, "coverage", what, of, number))
        hits += low - 1e-12 <= truth <= high + 1e-12
    return _line(what, of, "95%", hits, draws)


def wrong(what: str, of: str, draws: int, happened: Callable[[np.random.Generator], bool]) -> list[str]:
    """How often a test of two equals says that they differ."""
    hits = sum(happened(seeding.numpy_generator(0, "level", what, of, number)) for number in range(draws))
    return _line(what, of, "at most 5%", hits, draws)


def raced(of: str, draws: int, spread: float) -> Iterator[list[str]]:
    """How often a race of eight loses the best, and which share of the examples it asks."""
    lost, asked = 0, []
    for number in range(draws):
        generator = seeding.numpy_generator(0, "race", of, number)
        hard = generator.random(400)
        skill = 0.6 + spread * (generator.random(8) - 0.5)
        # Eight fine-tunes of one base mostly agree on what is hard.
        table = (hard + 0.25 * generator.standard_normal((8, 400)) < skill[:, None]).astype(np.float64)
        race, cost = Race(8, 400), 0
        for start in range(0, 400, 20):
            cost += 20 * len(race.running)
            race.tell(table[race.running, start : start + 20])
            if len(race.running) == 1:
                break
        totals = table.sum(1)
        lost += not any(totals[i] == totals.max() for i in race.running)
        asked.append(cost / 3200)
    yield _line("race loses the best", of, "at most 5%", lost, draws)
    yield ["race asks", of, "", f"{np.mean(asked):.0%}", f"{2 * np.std(asked) / draws**0.5:.1%}"]


def _line(what: str, of: str, promised: str, hits: int, draws: int) -> list[str]:
    share = hits / draws
    return [what, of, promised, f"{share:.1%}", f"{2 * (share * (1 - share) / draws) ** 0.5:.1%}"]


def _share(generator: np.random.Generator, n: int, p: float) -> tuple[float, float]:
    return wilson(int(generator.binomial(n, p)), n)[1:]


def _graded(generator: np.random.Generator, n: int) -> tuple[float, float]:
    return mean_interval(generator.beta(2, 5, n))[1:]


def _macro(generator: np.random.Generator, rights: tuple[float, ...]) -> tuple[float, float]:
    sizes = (50, 100, 400)
    parts = [(generator.random(n) < p).astype(np.float64) for n, p in zip(sizes, rights, strict=True)]
    return macro_interval(parts)[1:]


def _differ(generator: np.random.Generator, sizes: list[int], moved: float = 0.0) -> tuple[float, float]:
    drawn = [_pairs(generator, n, moved) for n in sizes]
    return macro_paired_bootstrap([pair[0] for pair in drawn], [pair[1] for pair in drawn])[1:3]


def _bootstrap_errs(generator: np.random.Generator, n: int) -> bool:
    return paired_bootstrap(*_pairs(generator, n)).p < 0.05


def _mcnemar_errs(generator: np.random.Generator, n: int) -> bool:
    return _mcnemar(generator, n) < 0.05


def _family_errs(generator: np.random.Generator) -> bool:
    return bool((holm([_mcnemar(generator, 300) for _ in range(12)]) < 0.05).any())


def _mcnemar(generator: np.random.Generator, n: int) -> float:
    first, second = _pairs(generator, n)
    return mcnemar(int((first > second).sum()), int((first < second).sum()))


def _pairs(generator: np.random.Generator, n: int, moved: float = 0.0) -> tuple[Scores, Scores]:
    """Right-or-wrong scores of two models that differ on a fifth of the examples, the first better by `moved`."""
    kind = generator.choice(4, size=n, p=[0.1 + moved / 2, 0.1 - moved / 2, 0.5, 0.3])
    return np.isin(kind, (0, 2)).astype(np.float64), np.isin(kind, (1, 2)).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="simulations of each line")
    draws = parser.parse_args().draws
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for line in rows(draws):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
