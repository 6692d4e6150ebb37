"""`filter:` conditions that are written in the names of another layout than the result's.

A text that is part of a name in the result's layout means those tensors, and nothing else is asked. Any other is looked
for in the names that the same tensors have in the models' own files, and in memory where transformers' class gives
them. `Plan` asks here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genepool.merging.outputs import Layout
from genepool.merging.recipe import Recipe
from genepool.weights import Checkpoint, Weights
from genepool.weights.architecture import architecture_of
from genepool.weights.naming import Renamed

Elsewhere = Mapping[str, frozenset[str]]


def filters_of(recipe: Recipe) -> frozenset[str]:
    """Every text that a condition of a recipe looks for in names."""
    levels: list[Mapping[str, Any]] = []
    for part in recipe.parts():
        levels += [*part.levels, *(entry.parameters for entry in part.entries)]
    conditions = [
        condition
        for level in levels
        for value in level.values()
        for condition in (value if isinstance(value, list) else [])
    ]
    return frozenset(one["filter"] for one in conditions if isinstance(one, dict) and "filter" in one)


def matched_elsewhere(recipe: Recipe, layout: Layout, sources: Mapping[str, Weights], reference: Weights) -> Elsewhere:
    """Which texts that are in no name of the result are in another name of a tensor.

    Args:
        recipe: the recipe.
        layout: the result's tensors.
        sources: the models, in the result's layout.
        reference: the one whose layout and config the result has.

    Returns:
        A name in the result, or in a model, -> the texts that mean it all the same.
    """
    names = {name for out in layout.outputs for name in (out.name, *(given.tensor for given in out.inputs))}
    texts = [text for text in filters_of(recipe) if not any(text in name for name in names)]
    if not texts:
        return {}
    found: dict[str, set[str]] = {}
    for name, others in _spellings(sources, reference):
        found.setdefault(name, set()).update(text for text in texts if all(text in other for other in others))
    return {name: frozenset(own) for name, own in found.items() if own}


def _spellings(sources: Mapping[str, Weights], reference: Weights) -> Iterator[tuple[str, Sequence[str]]]:
    """Names in the result's layout, each with the names of what the same tensor is made of elsewhere.

    A text must be in all of them: what means one expert does not mean the tensor that holds all.
    """
    for weights in sources.values():
        if isinstance(weights, Renamed):
            yield from ((name, [leaf.name for leaf in view.leaves()]) for name, view in weights.views.items())
        elif isinstance(weights, Checkpoint):
            yield from ((name, [stored]) for name, stored in weights.wrapped.items())
    architecture = architecture_of(reference.config)
    if architecture is not None:
        naming = architecture.naming((*reference.names(), *reference.aliases()))
        yield from ((name, [other]) for name in reference.names() for other in naming.in_memory(name))
