"""Merges as inputs of merges.

A recipe file that a recipe names as a model is taken inside it, and what a plan of several levels reads is added up.
Used by planning, `genepool plan` and the model card.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.errors import InputError
from genepool.merging.loading import load_recipe
from genepool.merging.merged_weights import MergedWeights
from genepool.merging.plan import Plan
from genepool.merging.recipe import Recipe, is_recipe_file
from genepool.weights import AlignedVocabulary, BaseWithChange, Checkpoint, Weights
from genepool.weights.naming import Renamed


def with_recipe_files(recipe: Recipe, chain: tuple[Path, ...] | None = None) -> Recipe:
    """The recipe with every recipe file that it names put under `recipes`, by the name it uses.

    Paths in such a file start from its own folder; they are rewritten to start from the folder of `recipe`, so the
    result needs none of the files.

    Args:
        recipe: a recipe.
        chain: the files that are being read, the outermost first.

    Raises:
        InputError: files that name each other in a circle; a recipe in `recipes` that nothing uses.
    """
    if chain is None:
        own = Path(recipe.where)
        chain = (own.resolve(),) if own.is_file() else ()
    inside = {name: with_recipe_files(inner, chain) for name, inner in recipe.recipes.items()}
    for piece in _pieces(recipe):
        path = _located(piece, recipe.folder)
        if piece in inside or not is_recipe_file(piece) or path is None:
            continue
        if path.resolve() in chain:
            circle = [*chain[chain.index(path.resolve()) :], path.resolve()]
            raise InputError(
                f"recipes name each other in a circle: {' -> '.join(step.name for step in circle)}",
                where=recipe.where,
                fix="Name a model in one of them instead",
            )
        inner = with_recipe_files(load_recipe(path), (*chain, path.resolve()))
        inside[piece] = _moved(inner, recipe.folder)
    _refuse_unused(recipe)
    copy = recipe.model_copy(update={"recipes": inside})
    return copy.located(recipe.where, recipe.folder)


def _pieces(recipe: Recipe) -> Iterator[str]:
    """Every model's name, and its parts around "+" where the whole is not itself a path."""
    for name in recipe.model_names():
        yield name
        if "+" in name and _located(name, recipe.folder) is None:
            yield from name.split("+")


def _located(name: str, folder: Path | None) -> Path | None:
    path = (folder or Path()) / Path(os.path.expanduser(name))
    try:
        return path if path.exists() else None
    except OSError:
        return None


def _moved(recipe: Recipe, folder: Path | None) -> Recipe:
    """The recipe with its relative paths starting from another folder."""
    here, there = recipe.folder or Path(), folder or Path()

    def rename(name: str) -> str:
        if _located(name, here) is None and "+" in name:
            return "+".join(rename(piece) for piece in name.split("+"))
        if Path(os.path.expanduser(name)).is_absolute() or _located(name, here) is None:
            return name
        return os.path.relpath(here / name, there)

    return recipe.renamed(rename).located(recipe.where, folder)


def _refuse_unused(recipe: Recipe) -> None:
    used = {piece for part in (recipe, *_inner(recipe)) for piece in _pieces(part)}
    for name in recipe.recipes:
        if name not in used:
            raise InputError(
                f"no model is called '{name}'", where=f"{recipe.where}:recipes.{name}", fix="Use it, or remove it"
            )


def _inner(recipe: Recipe) -> Iterator[Recipe]:
    for inner in recipe.recipes.values():
        yield inner
        yield from _inner(inner)


def inner_plans(plan: Plan) -> dict[str, Plan]:
    """The plans of the merges that are inputs of a merge, by the names its recipe uses."""
    found = {name: _merged(weights) for name, weights in plan.sources.items()}
    return {name: merged.plan for name, merged in found.items() if merged is not None}


def _merged(weights: Weights) -> MergedWeights | None:
    while not isinstance(weights, MergedWeights):
        # What a change was put on, what has other rows and what was renamed are themselves weights.
        if isinstance(weights, AlignedVocabulary):
            weights = weights.model
        elif isinstance(weights, BaseWithChange):
            weights = weights.base
        elif isinstance(weights, Renamed):
            weights = weights.inner
        else:
            return None
    return weights


def say_remarks(plan: Plan) -> None:
    """Says what is not merged, on all levels: what is kept of one model, and what is left out."""
    for name, inner in inner_plans(plan).items():
        for line in inner.layout.remarks():
            progress.message(f"note: {name}: {line}.")
    for line in plan.layout.remarks():
        progress.message(f"note: {line}.")


def input_paths(plan: Plan) -> Iterator[tuple[str, Path]]:
    """Every file or folder that a merge reads, on all its levels, with the name its recipe uses for the model."""
    for name, weights in plan.sources.items():
        for path in _paths(weights):
            yield name, path


def _paths(weights: Weights) -> Iterator[Path]:
    if isinstance(weights, MergedWeights):
        yield from (path for _, path in input_paths(weights.plan))
        return
    own = weights.path if isinstance(weights, Checkpoint) else None
    if isinstance(weights, BaseWithChange):
        own = weights.change.path
    yield from (path for path in (weights.folder, own) if path is not None)
    if isinstance(weights, BaseWithChange):
        yield from _paths(weights.base)
    elif isinstance(weights, AlignedVocabulary):
        yield from _paths(weights.model)
    elif isinstance(weights, Renamed):
        yield from _paths(weights.inner)


def describe(plan: Plan) -> dict[str, Any]:
    """`Plan.describe()` with the merges inside under `inner`, and with the bytes that all levels read together."""
    inner = {name: describe(inside) for name, inside in inner_plans(plan).items()}
    shown = plan.describe()
    if not inner:
        return shown
    return {**shown, "bytes_read": _bytes_read(plan, 1), "inner": inner}


def _bytes_read(plan: Plan, times: int) -> int:
    """Bytes read from files when the result of `plan` is read so many times; its surveys are made once."""
    passes = plan.passes - 1 + times
    inside = inner_plans(plan)
    direct = sum(
        plan.sources[given.model].info(given.tensor).nbytes * (passes if out.kept is None else times)
        for out in plan.layout.outputs
        for given in out.reads
        if given.model not in inside
    )
    return direct + sum(_bytes_read(inner, passes) for inner in inside.values())
