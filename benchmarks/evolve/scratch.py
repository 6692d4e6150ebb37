"""M2N2 from scratch against CMA-ES: `python -m benchmarks.evolve.scratch [--seeds 3] [--evaluations 20000]`.

The authors' task: scikit-learn's digits, a network of 64, 256 and 10 units, random start, every evaluation a pass over
the 1,437 training images; accuracy is told on the 360 others. CMA-ES has its diagonal form: the full covariance of
19,210 weights would take 3 GB and hours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.evolve.quality import interval
from genepool.seeding import numpy_generator

Numbers = NDArray[np.float32]
SHAPES = {"first.weight": (64, 256), "first.bias": (256,), "second.weight": (256, 10), "second.bias": (10,)}
STOPS = (0.1, 0.25, 0.5, 1.0)


class Digits:
    """The data and the network."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        cut = int(len(images) * 0.8)
        images = images.astype(np.float32)
        self.train, self.test = (images[:cut], labels[:cut]), (images[cut:], labels[cut:])

    def right(self, w: dict[str, Numbers], data: tuple[Numbers, Numbers]) -> NDArray[np.float64]:
        """Which images the network knows, shape (images,)."""
        inner = np.maximum(data[0] @ w["first.weight"] + w["first.bias"], 0)
        found = (inner @ w["second.weight"] + w["second.bias"]).argmax(1) == data[1]
        return found.astype(np.float64)


def m2n2(digits: Digits, seed: int, evaluations: int, **options: float) -> Iterator[tuple[int, float]]:
    """Yields (evaluations, accuracy on test of the best of the archive) at every stop."""
    import torch

    from genepool.evolution.breeding import FounderModels, Offspring
    from genepool.evolution.strategies import make_breeder
    from genepool.evolution.strategies.base import Birth, Evidence
    from genepool.weights import TensorWeights

    founders = FounderModels(TensorWeights({name: torch.zeros(shape) for name, shape in SHAPES.items()}, "zero"), {})
    births: dict[str, Birth] = {}
    offspring = Offspring(founders, births.__getitem__)
    breeder = make_breeder("m2n2", [], ["digits"], seed=seed, options={"from_scratch": 2, **options})
    known: dict[str, tuple[float, dict[str, Numbers]]] = {}
    done, stops = 0, [round(share * evaluations) for share in STOPS]
    while done < evaluations:
        asked = breeder.ask()
        rows = []
        for i, birth in enumerate(asked):
            name = f"{breeder.generation}.{i}"
            births[name] = birth
            child = offspring.child(name, birth)
            weights = {tensor: child.read(tensor).numpy() for tensor in SHAPES}
            rows.append(digits.right(weights, digits.train))
            known[name] = (float(rows[-1].mean()), weights)
            done += 1
        scores = np.array(rows)
        breeder.tell(asked, scores.mean(1), Evidence(("digits",), scores.mean(1, keepdims=True), scores))
        living = breeder.living()
        offspring.keep_only(living)
        known = {name: one for name, one in known.items() if name in living}
        while stops and done >= stops[0]:
            best = max(known.values(), key=lambda one: one[0])[1]
            yield stops.pop(0), float(digits.right(best, digits.test).mean())


def cma_es(digits: Digits, seed: int, evaluations: int) -> Iterator[tuple[int, float]]:
    """The same for CMA-ES: start N(0, 0.01), first step 0.01, population 20, as the authors set it."""
    from genepool.evolution.strategies import make_strategy

    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    # The strategy's cube stands for weights from -2 to 2, which no run of either comes near.
    start = numpy_generator(seed, "scratch").normal(0, 0.01, sum(sizes))
    options = {"sigma": 0.01 / 4, "population": 20, "covariance": "diagonal", "restart": False}
    search = make_strategy("cma_es", (start + 2) / 4, seed=seed, options=options)

    def network(x: NDArray[np.float64]) -> dict[str, Numbers]:
        parts = np.split((4 * x - 2).astype(np.float32), np.cumsum(sizes)[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}

    best, best_x, done = -1.0, start, 0
    stops = [round(share * evaluations) for share in STOPS]
    while done < evaluations:
        xs = search.ask()
        fitness = np.array([digits.right(network(x), digits.train).mean() for x in xs])
        search.tell(xs, fitness)
        done += len(xs)
        if fitness.max() > best:
            best, best_x = float(fitness.max()), xs[int(fitness.argmax())]
        while stops and done >= stops[0]:
            yield stops.pop(0), float(digits.right(network(best_x), digits.test).mean())


ARMS: dict[str, Callable[[Digits, int, int], Iterator[tuple[int, float]]]] = {
    "M2N2": m2n2,
    "M2N2 as a plain GA (alpha 0, no attraction)": lambda d, s, n: m2n2(d, s, n, alpha=0.0, attraction=False),
    "CMA-ES (diagonal)": cma_es,
}


def main() -> None:
    """Prints accuracy for evaluations and for processor seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolve.scratch", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=20_000)
    asked = parser.parse_args()
    digits = Digits()
    heads = [f"{round(share * asked.evaluations):,}" for share in STOPS]
    print(f"| test accuracy after | {' | '.join(heads)} | CPU s |\n|---|{'--:|' * (len(heads) + 1)}")
    for name, arm in ARMS.items():
        began = time.process_time()
        table = [[found for _, found in arm(digits, seed, asked.evaluations)] for seed in range(asked.seeds)]
        spent = (time.process_time() - began) / asked.seeds
        cells = [interval(list(column)) for column in zip(*table, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
