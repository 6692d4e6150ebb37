"""The static merges of the demo: every method with the settings people would try, to be chosen on validation.

Each is an ordinary recipe; nothing is written to the disk. Slerp takes two models, so four are joined in pairs, the
pairs being merges themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genepool.merging import Recipe, plan_merge
from genepool.testbed import Testbed
from genepool.weights import Weights, load_resident, open_weights
from genepool.weights.roles import infer_roles, layer_counts

# What people try first: the papers' defaults and their neighbours.
_GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "linear": ({},),
    "task_arithmetic": tuple({"lambda": value} for value in (0.3, 0.4, 0.5, 0.7, 1.0)),
    "ties": tuple({"density": density, "lambda": value} for density in (0.2, 0.5) for value in (1.0, 1.5)),
    "dare_linear": tuple({"density": 0.1, "lambda": value} for value in (0.3, 0.5, 0.7)),
    "dare_ties": ({}, {"density": 0.5}, {"density": 0.5, "lambda": 0.7}),
    "model_stock": ({},),
}


@dataclass(frozen=True)
class StaticMerge:
    """One merge with fixed settings.

    Attributes:
        method: the merge method, and "adapters" in front when LoRA adapters are merged.
        settings: what was set, in words; empty for the defaults.
        recipe: the recipe; `inner` holds recipes of models it names that are merges themselves.
        weights: the merged model, computed when it is read.
        models: skill -> the specialist it merges, as recipes name it; empty where merges are merged.
    """

    method: str
    settings: str
    recipe: Recipe
    weights: Weights
    models: Mapping[str, str] = field(default_factory=dict)
    inner: Mapping[str, Recipe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.method} {self.settings}".strip()


def static_merges(bed: Testbed) -> Iterator[StaticMerge]:
    """Every static merge of the testbed's specialists, models read into memory once."""
    sources = _resident(bed)
    base, experts, on_base = str(bed.base), {skill: str(path) for skill, path in bed.full.items()}, adapters(bed)
    for method, grid in _GRID.items():
        for parameters in grid:
            yield _simple(method, parameters, None if method == "linear" else base, experts, sources)
    for value in (0.4, 0.5):
        merge = _simple("task_arithmetic", {"lambda": value}, base, on_base, sources)
        yield replace(merge, method="adapters, task_arithmetic")
    yield _slerp_of_pairs(list(experts.values()), sources)
    yield _stack(list(experts.values()), sources)


def adapters(bed: Testbed) -> dict[str, str]:
    """Skill -> its LoRA adapter on the base, as recipes name it."""
    return {skill: f"{bed.base}+{path}" for skill, path in bed.lora.items()}


def _resident(bed: Testbed) -> dict[str, Weights]:
    opened = open_weights(bed.base)
    base = load_resident(opened)
    names = [*map(str, bed.full.values()), *adapters(bed).values()]
    return {str(bed.base): base} | {
        name: load_resident(open_weights(name, base=opened), (opened, base)) for name in names
    }


def _simple(
    method: str,
    parameters: Mapping[str, Any],
    base: str | None,
    models: Mapping[str, str],
    sources: Mapping[str, Weights],
) -> StaticMerge:
    recipe = Recipe(method=method, base=base, models=list(models.values()), parameters=dict(parameters))
    words = ", ".join(f"{key} {value:g}" for key, value in parameters.items())
    return StaticMerge(method, words, recipe, plan_merge(recipe, sources).weights(), models)


def _slerp_of_pairs(models: list[str], sources: Mapping[str, Weights]) -> StaticMerge:
    """Halves joined on the arc between them, again and again until one model is left."""
    inner: dict[str, Recipe] = {}
    known = dict(sources)
    while len(models) > 2:
        pairs = [models[i : i + 2] for i in range(0, len(models), 2)]
        models = []
        for pair in pairs:
            if len(pair) == 2:
                name = f"slerp {len(inner) + 1}"
                inner[name] = Recipe(method="slerp", models=pair, parameters={"t": 0.5})
                known[name] = plan_merge(inner[name], known).weights()
            models.append(name if len(pair) == 2 else pair[0])
    recipe = Recipe(method="slerp", models=models, parameters={"t": 0.5})
    return StaticMerge("slerp", "of pairs, t 0.5", recipe, plan_merge(recipe, known).weights(), inner=inner)


def _stack(models: list[str], sources: Mapping[str, Weights]) -> StaticMerge:
    """Each layer from another specialist: what passthrough can do with four models."""
    first = sources[models[0]]
    roles = infer_roles({name: first.info(name) for name in first.names()})
    depth = max(layer_counts(roles).values())
    slices = [{"sources": [{"model": models[i % len(models)], "layer_range": (i, i + 1)}]} for i in range(depth)]
    recipe = Recipe(method="passthrough", slices=slices)
    return StaticMerge("passthrough", "layer by layer", recipe, plan_merge(recipe, sources).weights())
