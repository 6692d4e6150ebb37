"""Heads of classes that the base lacks and the models have: the base is taken with an empty one.

A head that was trained on a base without one has nothing to be a difference to. The rule is that of skills, which keep
such a head as a change from zeros: the base counts as transformers' class with the head, and the head as zeros. A sum
of changes then adds up the heads, and a model without one adds nothing. Methods that take no base merge the heads
themselves. `planning` asks before models are lined up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from genepool import progress
from genepool.errors import InputError, listed
from genepool.merging.method import Method
from genepool.merging.recipe import Recipe
from genepool.weights import BaseWithHead, ClassHead, Weights
from genepool.weights.class_head import class_head_of


def with_heads(
    recipe: Recipe,
    method: Method,
    opened: Mapping[str, Weights],
    reopen: Callable[[str, Weights], Weights],
) -> dict[str, Weights]:
    """The models of a recipe, its base with the head that the others carry where it has none.

    Args:
        recipe: the recipe.
        method: its method; one that merges the base itself, not the models' differences to it, takes no empty head.
        opened: the models by the names the recipe uses.
        reopen: opens a model again, on another base.

    Returns:
        The same models where the base has a head, no model has one, or `rest` says whose is kept.

    Raises:
        InputError: the models carry several heads.
    """
    base = None if recipe.base is None else opened.get(recipe.base)
    if base is None or recipe.rest is not None or (method.inputs == "tensors" and method.base != "unused"):
        return dict(opened)
    if class_head_of(base.config) is not None:
        return dict(opened)
    heads = {name: head for name, weights in opened.items() if (head := _carried(weights, base)) is not None}
    if not heads or (method.inputs == "tensors" and len(heads) < len(opened) - 1):
        return dict(opened)
    first, head = next(iter(heads.items()))
    for name, other in heads.items():
        if other != head:
            raise _several(recipe, first, head, name, other)
    try:
        headed = BaseWithHead(base, head)
        found = {
            name: headed if weights is base else reopen(name, headed) if name in heads else BaseWithHead(weights, head)
            for name, weights in opened.items()
        }
    except InputError:
        # They differ in more than a head: what lines them up says in what.
        return dict(opened)
    carry = "carries" if len(heads) == 1 else "carry"
    how = "these are merged as changes from zeros" if method.inputs == "deltas" else "these are merged"
    progress.message(
        f"note: {base.name} has no {listed(headed.modules, 3)}, which {listed(list(heads), 3)} {carry}: {how}."
    )
    return found


def _carried(weights: Weights, base: Weights) -> ClassHead | None:
    """The head of a model that is otherwise of the base's kind."""
    ours, theirs = (base.config or {}).get("model_type"), (weights.config or {}).get("model_type")
    return class_head_of(weights.config) if weights is not base and ours == theirs else None


def _several(recipe: Recipe, first: str, head: ClassHead, other: str, theirs: ClassHead) -> InputError:
    """The refusal of heads that tell other classes apart; how to choose one."""
    if head.architecture != theirs.architecture:
        what = f"{first} is a {head.architecture} and {other} a {theirs.architecture}"
    elif len(head.classes) != len(theirs.classes):
        what = f"{first} tells {len(head.classes)} classes apart and {other} {len(theirs.classes)}"
    else:
        what = f"the classes of {first} are {listed(head.classes, 4)}, and those of {other} {listed(theirs.classes, 4)}"
    return InputError(
        f"the base has no head of classes, and the models carry several: {what}",
        where=recipe.where,
        fix=f"Add `rest: {first}` to keep its head and merge what they share, or `rest: base` for no head",
    )
