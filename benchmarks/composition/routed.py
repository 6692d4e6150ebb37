"""Whole specialists behind a router: the one that the base's own features of an input point to answers it.

What every composition has to beat that may keep all specialists at hand. Routers learn from the examples that composers
are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.claims.worlds import LIMITS, Scores
from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition import make_composer
from genepool.tasks import Example

#: Features and owners of some inputs, and features of others -> the owners that are chosen for these.
Router = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def nearest_centroid(known: np.ndarray, owners: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The owner whose inputs' mean is nearest.

    Args:
        known: shape (inputs, width).
        owners: shape (inputs,), from 0 on, each there at least once.
        asked: shape (asked, width).
    """
    centroids = np.stack([known[owners == owner].mean(0) for owner in range(owners.max() + 1)])
    return ((asked[:, None] - centroids) ** 2).sum(-1).argmin(1)


def linear_discriminant(known: np.ndarray, owners: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis, its covariance shrunk as Ledoit and Wolf do; see `nearest_centroid`."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(known, owners)
    return np.asarray(fitted.predict(asked))


ROUTERS: dict[str, Router] = {
    "specialists, LDA-routed": linear_discriminant,
    "specialists, centroid-routed": nearest_centroid,
}


def routed(name: str) -> Callable[[Bed, int], Cell]:
    """An arm: each test example is answered by the specialist that a router of `ROUTERS` chooses for it."""

    def measure(bed: Bed, examples: int) -> Cell:
        chosen, seconds = timed(lambda: choices(bed, examples, ROUTERS[name]))
        answers = [bed.scores(bed.specialist(skill), bed.asked_tasks, "test") for skill in bed.skills]
        scores = picked(answers, chosen)
        right = [float((chosen[skill] == number).mean()) for number, skill in enumerate(bed.skills)]
        return Cell(scores, seconds, {"router_right": round(float(np.mean(right)), 4)})

    return measure


def choices(bed: Bed, examples: int, router: Router) -> dict[str, np.ndarray]:
    """For each task the number of the skill that is chosen for each of its test examples."""
    composer = make_composer("adamerging", {})
    given = bed.given(bed.opened(composer), examples)
    known = [features(bed, task.task.name, task.examples) for task in given.tasks]
    owners = np.repeat([task.owner for task in given.tasks], [len(part) for part in known])
    learned = np.concatenate(known)
    return {
        task: router(learned, owners, features(bed, task, bed.tasks[task].examples("test")[: LIMITS["test"]]))
        for task in bed.asked_tasks
    }


def features(bed: Bed, task: str, examples: Sequence[Example]) -> np.ndarray:
    """The base's last hidden state of each input, averaged over its places: shape (examples, width), float64."""
    prompts = [bed.tasks[task].prompt_for(one, bed.base_model) for one in examples]
    return bed.base_model.embeddings(prompts).double().numpy()


def picked(answers: Sequence[Scores], chosen: dict[str, np.ndarray]) -> Scores:
    """For each example the mark of the model that was chosen for it.

    Args:
        answers: one a model.
        chosen: task -> the number of the model for each example.
    """
    return {
        task: np.stack([marks[task] for marks in answers])[numbers, np.arange(len(numbers))]
        for task, numbers in chosen.items()
    }
