"""From a recipe to a plan: opens headers, lines the models up, and finds whatever is wrong before any work is done."""

from __future__ import annotations

from collections.abc import Mapping

from genepool.errors import InputError
from genepool.merging.compatibility import check_origin, check_vocabularies
from genepool.merging.layout import Aligner
from genepool.merging.method import Method
from genepool.merging.plan import Plan
from genepool.merging.recipe import Recipe
from genepool.weights import Weights, open_weights


def plan_merge(recipe: Recipe, sources: Mapping[str, Weights] | None = None, *, like: Plan | None = None) -> Plan:
    """Decides everything about a merge from the headers of its models.

    Args:
        recipe: what to merge.
        sources: models that are already open (or resident in memory), by the names the recipe uses; the rest is
            opened.
        like: an earlier plan of a recipe with the same models and slices. Its models and layout are used again, and
            only the parameters are looked at: what a search over parameters needs.

    Raises:
        InputError: the recipe, a model, or how they fit together is wrong.
    """
    checked, method = recipe.checked()
    checked = _without_base_among_models(checked, method)
    if like is not None:
        return Plan(checked, method, like.sources, like.layout)
    opened = _open_sources(checked, sources or {})
    _check_counts(checked, method)
    uses_base = method.base == "required" or (method.base == "optional" and checked.base is not None)
    layout = Aligner(checked, opened, uses_base).layout()
    if checked.vocabulary == "same":
        check_vocabularies(opened, checked.where)
    if checked.tokenizer != "base" and checked.tokenizer not in opened:
        raise InputError(
            f"'{checked.tokenizer}' is not one of the models", where=f"{checked.where}:tokenizer", fix="Write `base`"
        )
    if method.inputs == "deltas":
        check_origin(layout, opened, checked.where)
    return Plan(checked, method, opened, layout)


def _open_sources(recipe: Recipe, given: Mapping[str, Weights]) -> dict[str, Weights]:
    opened: dict[str, Weights] = {}
    for name in recipe.model_names():
        base = opened.get(recipe.base) if recipe.base else None
        opened[name] = given[name] if name in given else open_weights(name, relative_to=recipe.folder, base=base)
    return opened


def _without_base_among_models(recipe: Recipe, method: Method) -> Recipe:
    """A base that is also listed as a model has a task vector of zero: it is the base, not one more model."""
    if recipe.models is None or recipe.base is None or method.base == "unused":
        return recipe
    kept = [entry for entry in recipe.models if entry.model != recipe.base]
    copy = recipe.model_copy(update={"models": kept})
    return copy.located(recipe.where, recipe.folder)


def _check_counts(recipe: Recipe, method: Method) -> None:
    low, high = method.models
    parts: list[tuple[str, int]] = []
    if recipe.models is not None:
        parts.append(("models", len(recipe.models)))
    for i, part in enumerate(recipe.slices or []):
        base = (part.base or recipe.base) if method.base != "unused" else None
        parts.append((f"slices[{i}].sources", sum(source.model != base for source in part.sources)))
    if method.base == "optional" and recipe.base is None:
        low = high = 2
    elif method.base == "optional":
        high = 1
    for place, count in parts:
        if count < low or (high is not None and count > high):
            wanted = f"exactly {low}" if low == high else (f"at least {low}" if count < low else f"at most {high}")
            raise InputError(
                f"{method.name} takes {wanted} model{'s' if (low, high) != (1, 1) else ''}"
                f"{' beside the base' if recipe.base and method.base != 'unused' else ''}, not {count}",
                where=f"{recipe.where}:{place}",
                fix="Add or remove models",
            )
    names = [entry.model for entry in recipe.models or []]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is listed twice", where=f"{recipe.where}:models", fix="Give it a larger weight")
