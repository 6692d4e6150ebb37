"""The arms: methods with the settings tried. Settings are chosen on the validation split, at most eight for every arm.

An arm without a choice is its authors' default, or has none. Grids are around the authors' values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.claims.worlds import Scores, World
from genepool.merging import Recipe

BUDGET = 8
# Of a sum of task vectors (Ilharco et al.: 0 to 1; 0.3 for eight tasks, 0.4 in the TIES repository).
SUM_LAMBDAS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
# Of a mean over agreeing entries (Yadav et al. search 0.8 to 2.5; 1 is their value without validation data).
MEAN_LAMBDAS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.1, 2.5)
# Of the spectral merges, whose authors search from 0.1 to 3.
SPECTRAL_LAMBDAS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)
# Of LiNeS over n tasks: the first layers keep the plain average's 1/n, and the slope is searched (Wang et al., 4.2).
LINES_BETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)

Settings = Mapping[str, Any]
Maker = Callable[[World, Sequence[str], Settings], Recipe]


@dataclass(frozen=True)
class Arm:
    """One method and the settings tried.

    Attributes:
        name: in the page.
        method: what must be registered for the arm to exist.
        grid: the settings; one alone needs no choice.
        make: a recipe from the world, the skills to merge, and settings.
    """

    name: str
    method: str
    grid: tuple[Settings, ...]
    make: Maker

    def __post_init__(self) -> None:
        if not 1 <= len(self.grid) <= BUDGET:
            raise ValueError(f"{self.name} tries {len(self.grid)} settings: 1 to {BUDGET} are fair")


def _plain(name: str, method: str, *grid: Settings) -> Arm:
    return Arm(name, method, grid, lambda world, skills, settings: world.recipe(method, skills, settings))


def _lines(world: World, skills: Sequence[str], settings: Settings) -> Recipe:
    scaling = {"alpha": 1 / len(skills), "beta": settings["beta"]}
    return world.recipe("task_arithmetic", skills, {"lambda": 1.0}, lines=scaling)


AVERAGE = _plain("averaging", "linear", {})
TASK_ARITHMETIC = _plain("task arithmetic", "task_arithmetic", *({"lambda": x} for x in SUM_LAMBDAS))
TIES_DEFAULT = _plain("TIES, untuned", "ties", {})
TIES = _plain("TIES", "ties", *({"lambda": x} for x in MEAN_LAMBDAS))
TIES_PER_TENSOR = _plain("TIES, trimmed per tensor", "ties", *({"lambda": x, "scope": "tensor"} for x in MEAN_LAMBDAS))
DARE_TIES = _plain("DARE-TIES", "dare_ties", *({"lambda": x} for x in SUM_LAMBDAS))
PCB = _plain("PCB", "pcb", *({"lambda": x} for x in MEAN_LAMBDAS))
LINES = Arm("LiNeS", "task_arithmetic", tuple({"beta": x} for x in LINES_BETAS), _lines)
TSV_M = _plain("TSV-M", "tsv_m", *({"lambda": x} for x in SPECTRAL_LAMBDAS))
ISO_C = _plain("Iso-C", "iso_c", *({"lambda": x} for x in SPECTRAL_LAMBDAS))
ISO_CTS = _plain("Iso-CTS", "iso_cts", *({"lambda": x} for x in SPECTRAL_LAMBDAS))
WUDI = _plain("WUDI, untuned", "wudi", {})


def candidates(world: World, arm: Arm, skills: Sequence[str]) -> list[tuple[Settings, Recipe]]:
    """Every setting of the arm, as a recipe over `skills`."""
    return [(settings, arm.make(world, skills, settings)) for settings in arm.grid]


def mean_score(scores: Scores, tasks: Sequence[str]) -> float:
    """Mean over tasks, each counting the same."""
    return float(np.mean([scores[task].mean() for task in tasks]))


def best(world: World, arm: Arm, skills: Sequence[str]) -> tuple[float, Settings, Recipe]:
    """The setting with the best mean over the merged skills on the validation split, the first of equals.

    Returns:
        That mean, the setting, and its recipe.
    """
    found = [
        (mean_score(world.scores(recipe, skills, "valid"), skills), settings, recipe)
        for settings, recipe in candidates(world, arm, skills)
    ]
    return max(found, key=lambda entry: entry[0])


def best_of(world: World, arms: Sequence[Arm], skills: Sequence[str]) -> tuple[Arm, Settings, Recipe]:
    """The arm that is best on the validation split, with its setting and recipe."""
    found = [(arm, *best(world, arm, skills)) for arm in arms]
    arm, _, settings, recipe = max(found, key=lambda entry: entry[1])
    return arm, settings, recipe
