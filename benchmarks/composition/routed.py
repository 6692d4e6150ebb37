"""Whole specialists behind a router: the one that the base's own features of an input point to answers it.

What every composition has to beat that may keep all specialists at hand. The routers are the composers `lda_routing`
and `centroid_routing`; what a specialist answers is remembered, so only the router is asked anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims.worlds import LIMITS, Scores
from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell

#: The arms: a composer with its options. Without abstention every input goes to a specialist.
ROUTERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "specialists, LDA-routed": ("lda_routing", {"abstain": 0}),
    "specialists, centroid-routed": ("centroid_routing", {"abstain": 0}),
    "specialists, LDA-routed, abstaining": ("lda_routing", {}),
    "capability routing": ("model_sat", {}),
}


def routed(name: str) -> Callable[[Bed, int], Cell]:
    """An arm: each test example is answered by the specialist that a router of `ROUTERS` chooses for it."""

    def measure(bed: Bed, examples: int) -> Cell:
        chosen, seconds = timed(lambda: choices(bed, examples, *ROUTERS[name]))
        answers = [bed.scores(bed.specialist(skill), bed.asked_tasks, "test") for skill in bed.skills]
        answers.append(bed.scores(bed.base(), bed.asked_tasks, "test"))
        scores = picked(answers, chosen)
        right = [float((chosen[skill] == number).mean()) for number, skill in enumerate(bed.skills)]
        return Cell(scores, seconds, {"router_right": round(float(np.mean(right)), 4)})

    return measure


def choices(bed: Bed, examples: int, method: str, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """For each task the number of the skill that is chosen for each of its test examples; of the base behind them.

    Args:
        bed: the testbed.
        examples: of the training split of each task.
        method, options: the composer.
    """
    router = bed.fitted(method, options, examples).router  # type: ignore[attr-defined]
    found = {}
    for task in bed.asked_tasks:
        asked = bed.tasks[task].examples("test")[: LIMITS["test"]]
        prompts = [bed.tasks[task].prompt_for(one, bed.base_model) for one in asked]
        owners = router.chosen(bed.base_model.embeddings(prompts)).numpy()
        found[task] = np.where(owners < 0, len(bed.skills), owners)
    return found


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
