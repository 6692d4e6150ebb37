"""Merges that give a method parameters which no stored recipe gives it, by both.

Where entries are dropped at random, mergekit is given the numbers that genepool draws: both then keep the same entries,
and everything else about the rule is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.mergekit.cases import Pair, largest_difference
from genepool import seeding
from genepool.kernels import uniform
from genepool.weights import open_weights

_SUMS: Mapping[str, Any] = {"weight": 0.6, "lambda": 0.8, "normalize": True, "int8_mask": True}
_TRIMMED: Mapping[str, Any] = {**_SUMS, "density": 0.7, "rescale": True}
_DRAWN: Mapping[str, Any] = {**_TRIMMED, "density": 0.4}
#: Method -> parameters of the merge of two models. None is the default of both.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "linear": {"weight": 0.6, "normalize": False},
    "task_arithmetic": _TRIMMED,
    "ties": _TRIMMED,
    "dare_linear": _DRAWN,
    "dare_ties": _DRAWN,
    "breadcrumbs": {**_TRIMMED, "gamma": 0.05},
    "breadcrumbs_ties": {**_TRIMMED, "gamma": 0.05},
    "della": {**_DRAWN, "epsilon": 0.3, "normalize": False},
    "della_linear": {**_DRAWN, "epsilon": 0.3},
    "sce": {"select_topk": 0.5, "int8_mask": True},
    "multislerp": {"weight": 0.6, "normalize_weights": False, "eps": 1e-6},
    "karcher": {"max_iter": 50, "tol": 1e-7},
}
_NO_BASE = ("linear", "karcher")
_MODELS = ("a", "b")
# What `genepool merge` draws with unless told otherwise.
_SEED = 0


def measure(pair: Pair) -> dict[str, float]:
    """The largest difference of each method of `VALUES`, in float32."""
    files: dict[str, Path] = {}
    for method, values in VALUES.items():
        recipe: dict[str, Any] = {"merge_method": method, "parameters": dict(values), "dtype": "float32"}
        recipe["models"] = [{"model": str(pair.models[name])} for name in _MODELS]
        if method not in _NO_BASE:
            recipe["base_model"] = str(pair.models["base"])
        files[method] = pair.file(f"parameters-{method}.yaml", recipe)
    theirs = {method: pair.place / f"{method}-theirs" for method in files}
    words: list[Path] = [_draws(pair), *(word for method in files for word in (files[method], theirs[method]))]
    pair.theirs("python", Path(__file__).parent / "run_recipes.py", *words)
    found = {}
    for method, file in files.items():
        pair.ours("merge", file, pair.place / f"{method}-ours")
        found[method] = largest_difference(pair.place / f"{method}-ours", theirs[method])
    return found


def _draws(pair: Pair) -> Path:
    """The numbers that genepool drops entries by, for every tensor of the base and every task vector."""
    base, file = open_weights(str(pair.models["base"])), pair.place / "draws.safetensors"
    numbers = {
        f"{name}/{vector}": uniform(base.info(name).numel, seeding.derive(_SEED, name, vector))
        for name in base.names()
        for vector in range(len(_MODELS))
    }
    save_file(numbers, file)
    return file
