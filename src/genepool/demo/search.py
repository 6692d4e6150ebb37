"""The demo's searches: each begins where the best static merge ended, and gives every skill, layer and role a weight.

So a search that finds nothing ends where it began, and what it gains is gained by weights of their own. Uses the
static merges and evolution's study; the story runs both searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genepool.demo.static import StaticMerge
from genepool.evolution import Study
from genepool.testbed import Testbed

GENERIC = "generic"


@dataclass(frozen=True)
class _Search:
    """How the weights of a static merge become those of a search.

    Attributes:
        weight: the parameter of the static merge that all weights begin at; "" where they begin at 1.
        high: the largest weight.
        fixed: what stays fixed besides the static merge's own parameters.
    """

    weight: str
    high: float
    fixed: Mapping[str, Any]


# Methods whose models have weights that may differ between tensors.
_SEARCHES = {
    "task_arithmetic": _Search("lambda", 1.2, {"lambda": 1.0}),
    # Over the whole vector at once there can be one weight for each model; within a tensor there can be many.
    "ties": _Search("", 2.0, {"scope": "tensor"}),
    "dare_linear": _Search("", 2.0, {}),
    "dare_ties": _Search("", 2.0, {}),
}


def can_be_searched(merge: StaticMerge) -> bool:
    """Whether a search can begin at this merge."""
    return merge.recipe.method in _SEARCHES


def search_from(
    merge: StaticMerge,
    bed: Testbed,
    strategy: str,
    *,
    evaluations: int,
    valid: int,
    per: Mapping[str, Any],
    sigma: float,
    seed: int,
) -> Study:
    """The same search for every strategy; skills together count as much as the generic tasks.

    Args:
        merge: where it begins; `can_be_searched`.
        bed: the models and tasks.
        strategy: one of `genepool strategies`.
        evaluations: its budget.
        valid: validation examples of each task that score a candidate.
        per: what has a weight of its own beside each skill: groups of layers, roles.
        sigma: the first step of strategies that have one.
        seed: of the search.
    """
    method = str(merge.recipe.method)
    search, given = _SEARCHES[method], dict(merge.recipe.parameters)
    start = float(given.pop(search.weight)) if search.weight else 1.0
    return Study(
        base=str(bed.base),
        skills=[{"name": skill, "model": model} for skill, model in merge.models.items()],
        vary={
            "kind": "merge_parameters",
            "method": method,
            "parameters": {**given, **search.fixed},
            "search": {"weight": {"low": 0.0, "high": search.high, "start": start, "per": {"skill": True, **per}}},
        },
        tasks={"dir": str(bed.tasks), "weights": {GENERIC: len(merge.models)}, "valid": valid},
        strategy={"name": strategy, "options": {"sigma": sigma} if strategy == "cma_es" else {}},
        budget={"evaluations": evaluations},
        # Judged again on all validation examples: the best of hundreds on a few is partly the luckiest.
        finalists=10,
        seed=seed,
    )
