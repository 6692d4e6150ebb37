"""Merges that give a method parameters which no stored recipe gives it, by both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.mergekit.cases import Pair, largest_difference

_SUMS: Mapping[str, Any] = {"weight": 0.6, "lambda": 0.8, "normalize": True, "int8_mask": True}
_TRIMMED: Mapping[str, Any] = {**_SUMS, "density": 0.7, "rescale": True}
# Where masks are drawn nothing may be left to chance, so what depends on them (rescale, epsilon) is not given.
_DRAWN: Mapping[str, Any] = {**_SUMS, "density": 1.0}
#: Method -> parameters of the merge of two models. None is the default of both.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "linear": {"weight": 0.6, "normalize": False},
    "task_arithmetic": _TRIMMED,
    "ties": _TRIMMED,
    "dare_linear": _DRAWN,
    "dare_ties": _DRAWN,
    "breadcrumbs": {**_TRIMMED, "gamma": 0.05},
    "breadcrumbs_ties": {**_TRIMMED, "gamma": 0.05},
    "della": {**_DRAWN, "normalize": False},
    "della_linear": _DRAWN,
    "sce": {"select_topk": 0.5, "int8_mask": True},
    "multislerp": {"weight": 0.6, "normalize_weights": False, "eps": 1e-6},
    "karcher": {"max_iter": 50, "tol": 1e-7},
}
_NO_BASE = ("linear", "karcher")


def measure(pair: Pair) -> dict[str, float]:
    """The largest difference of each method of `VALUES`, in float32."""
    files: dict[str, Path] = {}
    for method, values in VALUES.items():
        recipe: dict[str, Any] = {"merge_method": method, "parameters": dict(values), "dtype": "float32"}
        recipe["models"] = [{"model": str(pair.models[name])} for name in ("a", "b")]
        if method not in _NO_BASE:
            recipe["base_model"] = str(pair.models["base"])
        files[method] = pair.file(f"parameters-{method}.yaml", recipe)
    theirs = {method: pair.place / f"{method}-theirs" for method in files}
    words = [word for method in files for word in (files[method], theirs[method])]
    pair.theirs("python", Path(__file__).parent / "run_recipes.py", *words)
    found = {}
    for method, file in files.items():
        pair.ours("merge", file, pair.place / f"{method}-ours")
        found[method] = largest_difference(pair.place / f"{method}-ours", theirs[method])
    return found
