"""What is compared: one row per method and scope, with the recipe both programs read or genepool alone.

Rows exist for the methods that `genepool methods --json` lists. A row that mergekit has too is one file in mergekit's
dialect, read by both: the same method with the same parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Methods of both programs: how many models, whether they have a base, parameters of each model and of the merge.
# Weights of 0.4 keep sums of three task vectors near the experts; densities are those of the papers' text.
_MERGEKIT: dict[str, tuple[int, bool, dict[str, Any], dict[str, Any]]] = {
    "linear": (4, False, {"weight": 1.0}, {}),
    "task_arithmetic": (3, True, {"weight": 0.4}, {}),
    "model_stock": (3, True, {}, {}),
    "slerp": (1, True, {}, {"t": 0.5}),
    "nuslerp": (2, False, {"weight": 0.5}, {}),
    "karcher": (3, False, {}, {}),
    "ties": (3, True, {"weight": 1.0, "density": 0.2}, {"normalize": True}),
    "dare_linear": (3, True, {"weight": 0.4, "density": 0.5}, {}),
    "dare_ties": (3, True, {"weight": 0.4, "density": 0.5}, {}),
    "breadcrumbs": (3, True, {"weight": 0.4, "density": 0.9, "gamma": 0.01}, {}),
    "breadcrumbs_ties": (3, True, {"weight": 0.4, "density": 0.9, "gamma": 0.01}, {}),
    "della_linear": (3, True, {"weight": 0.4, "density": 0.5, "epsilon": 0.15}, {}),
    "della": (3, True, {"weight": 0.4, "density": 0.5, "epsilon": 0.15}, {}),
    "sce": (3, True, {}, {"select_topk": 0.1}),
}
# Methods that mergekit does not have, and the SVDs that bound some of them from below.
_OWN = ("pcb", "tsv_m", "iso_c", "iso_cts", "wudi")
SVD_METHODS = ("tsv_m", "iso_c", "iso_cts")
# Recipes in genepool's dialect leave parameters at the papers' defaults, but for what a comparison needs the same.
_OWN_PARAMETERS: dict[str, dict[str, Any]] = {"dare_ties": {"density": 0.5}, "dare_linear": {"density": 0.5}}
_TRIMMING = ("ties", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear")
# What is aimed at beyond start-up, in floors, whatever the scope.
_AIMS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("linear", "task_arithmetic", "model_stock"), 1.5),
    (("dare_linear",), 2.5),
    (("ties",), 4.0),
    (("breadcrumbs", "breadcrumbs_ties"), 4.5),
    (("pcb",), 6.5),
    (("della", "della_linear"), 9.0),
)
# Beyond these billions of parameters a row runs only when it is asked for by name: its work grows with the square of
# the width (SVDs), or takes hundreds of matrix products for each matrix (WUDI).
_LARGEST = {"tsv_m": 0.3, "iso_c": 0.3, "iso_cts": 0.3, "wudi": 0.06}


@dataclass(frozen=True)
class Row:
    """One merge that is timed.

    Attributes:
        name: what the table calls it.
        method: the method's name.
        recipe: the recipe's text, with absolute paths.
        peer: whether mergekit reads the same recipe.
        aim: the ratio to the floor, beyond start-up, that is aimed at; None where none is set.
        largest: the largest model, in billions of parameters, it is run on unasked.
    """

    name: str
    method: str
    recipe: str
    peer: bool
    aim: float | None = None
    largest: float = float("inf")


def rows(methods: Mapping[str, Collection[str]], base: Path, experts: Sequence[Path]) -> list[Row]:
    """The rows for the methods that are there.

    Args:
        methods: name -> the names of its parameters.
        base: the base's folder.
        experts: those of three fine-tunes.
    """
    result = []
    for method, (count, with_base, own, shared) in _MERGEKIT.items():
        if method not in methods:
            continue
        scoped = "scope" in methods[method]
        models = list(experts[:count]) if count <= len(experts) else [base, *experts]
        recipe = mergekit_recipe(method, base if with_base else None, models, own, shared)
        name = f"{method}, per tensor" if scoped else method
        result.append(Row(name, method, recipe, peer=True, aim=_aim(method)))
        if scoped:
            result.append(_own_row(method, "model", base if with_base else None, models, own, shared))
    for method in _OWN:
        if method in methods:
            scopes = ("model", "tensor") if "scope" in methods[method] else (None,)
            result += [_own_row(method, scope, base, experts, {}, {}) for scope in scopes]
    return result


def mergekit_recipe(
    method: str,
    base: Path | None,
    models: Sequence[Path],
    own: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> str:
    """A recipe in mergekit's dialect; a base is also listed where its spherical interpolation insists on it."""
    entries = [{"model": str(model), **({"parameters": dict(own)} if own else {})} for model in models]
    if method == "slerp":
        entries.insert(0, {"model": str(base)})
    data: dict[str, Any] = {"merge_method": method}
    if base is not None:
        data["base_model"] = str(base)
    data |= {"models": entries, "dtype": "bfloat16"}
    if shared:
        data["parameters"] = dict(shared)
    return yaml.safe_dump(data, sort_keys=False)


def _own_row(
    method: str,
    scope: str | None,
    base: Path | None,
    models: Sequence[Path],
    own: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> Row:
    # The papers' defaults, but for a method that has none for a parameter (slerp's t), where the row beside it decides.
    given = dict(_OWN_PARAMETERS.get(method, {})) if method in _TRIMMING or method in _OWN else {**own, **shared}
    parameters = given | ({"scope": scope} if scope else {})
    data: dict[str, Any] = {
        "genepool": 1,
        "method": method,
        **({"base": str(base)} if base is not None else {}),
        "models": [str(model) for model in models],
        "dtype": "bfloat16",
    }
    if parameters:
        data["parameters"] = parameters
    words = {"model": f"{method}, whole vector", "tensor": f"{method}, per tensor", None: method}
    recipe = yaml.safe_dump(data, sort_keys=False)
    return Row(words[scope], method, recipe, peer=False, aim=_aim(method), largest=_LARGEST.get(method, float("inf")))


def _aim(method: str) -> float | None:
    return next((aim for names, aim in _AIMS if method in names), None)
