"""Recipes of stacks whose layers are drawn from several models, as `mergekit-layershuffle` draws them.

Only headers are read. `genepool shuffle` writes what this returns, and `genepool merge` makes the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.merging.inspection.facts import head_of
from genepool.seeding import numpy_generator
from genepool.weights import Role, Weights
from genepool.weights.roles import infer_roles, layer_counts
from genepool.weights.stacks import main_stack
from genepool.weights.vocabulary.comparison import vocabularies, vocabulary_conflicts
from genepool.weights.vocabulary.rows import vocabulary_rows

# Far beyond any stack that is trained or run.
_MOST_LAYERS = 10_000
# Names of draws, each with a generator of its own.
_MODELS, _LAYERS, _ORDER = "shuffle models", "shuffle layers", "shuffle order"


def shuffled_recipe(
    models: Mapping[str, Weights], weights: Sequence[float] = (), *, full_random: bool = False, seed: int = 0
) -> dict[str, Any]:
    """A recipe that takes every layer from one of the models.

    Args:
        models: the models by their names in the recipe, opened.
        weights: how likely a layer is each model's, in their order; equally when empty. With `full_random`, the part
            of its layers that each model gives.
        full_random: draw layers of every model, with repetition, and put them in a random order. Otherwise layer i of
            the result is layer i of a model.
        seed: of the draws.

    Returns:
        The recipe, as plain data that a YAML file accepts. It joins the vocabularies of models that differ in them.

    Raises:
        InputError: fewer than two models, a wrong number of weights or a negative one, models of different depths,
            vocabularies or heads that no merge brings together.
    """
    names = list(models)
    if len(names) < 2:
        raise InputError(f"a shuffle draws from 2 models or more, got {len(names)}", fix="Name another model")
    depths = {name: _depth(name, one) for name, one in models.items()}
    chances = _chances(weights, names, full_random)
    layers = _drawn(depths, chances, seed) if full_random else _in_place(depths, chances, seed)
    slices = [{"sources": [{"model": name, "layer_range": [first, end]}]} for name, first, end in _runs(layers)]
    drawn = {name: models[name] for name in dict.fromkeys(name for name, _ in layers)}
    _check_heads(drawn, layers[-1][0])
    recipe = {"genepool": 1, "method": "passthrough", "slices": slices}
    return recipe if _share_a_vocabulary(drawn) else {**recipe, "tokenizer": "union"}


def _roles(weights: Weights) -> dict[str, Role]:
    return infer_roles({tensor: weights.info(tensor) for tensor in weights.names()})


def _depth(name: str, weights: Weights) -> int:
    roles = _roles(weights)
    depth = layer_counts(roles).get(main_stack(roles), 0)
    if not depth:
        raise InputError("has no layers", where=name, fix="Name a model with layers")
    return depth


def _check_heads(drawn: Mapping[str, Weights], last: str) -> None:
    """Refuses a stack that begins with a model with a head of its own and ends with one whose head is its embedding.

    The config is the first model's and asks for a head, which the last one does not store.
    """
    first = next(iter(drawn))
    heads = {name: head_of(drawn[name], _roles(drawn[name])) for name in (first, last)}
    if heads[first] == "own" and heads[last] == "tied":
        raise InputError(
            f"its head is its embedding, and {first}, which the stack begins with, has a head of its own",
            where=last,
            fix="Name models whose heads are alike, or draw again with another --seed",
        )


def _share_a_vocabulary(drawn: Mapping[str, Weights]) -> bool:
    """Whether rows of one number stand for one token in all models, and all have as many.

    Raises:
        InputError: they do not, and no file says which token each row of a model stands for.
    """
    found = vocabularies(drawn)
    counts = {name: max(vocabulary_rows(one).values(), default=0) for name, one in drawn.items()}
    first = next(iter(drawn))
    if len(set(counts.values())) == 1 and next(vocabulary_conflicts(found), None) is None:
        return True
    for name in drawn:
        if name not in found and (first not in found or counts[name] != counts[first]):
            raise InputError(
                "the models differ in their tokens, and no file says which token each row of this one stands for",
                where=name,
                fix="Put its tokenizer.json beside it, or name models of one vocabulary",
            )
    return False


def _chances(weights: Sequence[float], names: Sequence[str], full_random: bool) -> list[float]:
    if not weights:
        return [1 / len(names)] * len(names)
    if len(weights) != len(names):
        raise InputError(
            f"got {len(weights)} for {len(names)} models", where="--weight", fix="Give one for each model, or none"
        )
    # A number that is none compares as false.
    if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise InputError(
            f"weights must be 0 or more, and one of them above 0, got {', '.join(f'{one:g}' for one in weights)}",
            where="--weight",
            fix="Correct them",
        )
    return list(weights) if full_random else [weight / sum(weights) for weight in weights]


def _in_place(depths: Mapping[str, int], chances: Sequence[float], seed: int) -> list[tuple[str, int]]:
    """Layer i of the result is layer i of a model drawn for it."""
    if len(set(depths.values())) > 1:
        said = ", ".join(f"{depth} layers in {name}" for name, depth in depths.items())
        raise InputError(f"depths differ: {said}", fix="Name models of one depth, or pass --full-random")
    names, depth = list(depths), next(iter(depths.values()))
    drawn = numpy_generator(seed, _MODELS).choice(len(names), size=depth, p=chances)
    return [(names[int(which)], layer) for layer, which in enumerate(drawn)]


def _drawn(depths: Mapping[str, int], shares: Sequence[float], seed: int) -> list[tuple[str, int]]:
    """From every model its share of layers, any of them and in any order."""
    total = sum(share * depth for share, depth in zip(shares, depths.values(), strict=True))
    if total > _MOST_LAYERS:
        raise InputError(
            f"these shares make {total:.3g} layers, more than {_MOST_LAYERS:,}",
            where="--weight",
            fix="Give smaller shares; 1 is as many layers as the model has",
        )
    found = [
        (name, int(layer))
        for (name, depth), share in zip(depths.items(), shares, strict=True)
        for layer in numpy_generator(seed, _LAYERS, name).integers(depth, size=int(share * depth))
    ]
    if not found:
        raise InputError("no model gives a whole layer", where="--weight", fix="Give larger shares")
    return [found[int(place)] for place in numpy_generator(seed, _ORDER).permutation(len(found))]


def _runs(layers: Sequence[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Layers of one model that follow each other there too, as (model, first, one past the last)."""
    runs: list[tuple[str, int, int]] = []
    for name, layer in layers:
        if runs and runs[-1][0] == name and runs[-1][2] == layer:
            runs[-1] = (name, runs[-1][1], layer + 1)
        else:
            runs.append((name, layer, layer + 1))
    return runs


def placed(name: str) -> str:
    """A model's name with every part that is a path here made absolute, so that a recipe elsewhere finds it."""
    parts = [name] if os.path.exists(name) else name.split("+")
    return "+".join(str(Path(part).resolve()) if part and os.path.exists(part) else part for part in parts)
