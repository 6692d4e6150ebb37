"""What every candidate of a study keeps of one model, instead of merging it: `rest` and `tensors`, written again.

The study's model holds them; a recipe has the same two keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from genepool.merging.recipe_parts import TensorRule

#: What `rest` and `from` mean beside models.
WORDS = ("base", "drop", "merge")


def said_of_parts(rest: str | None, rules: Sequence[TensorRule], called: Callable[[str], str]) -> dict[str, Any]:
    """Both keys as plain data, without one that says nothing.

    Args:
        rest: the model that everything else is taken from; None where models have everything in common.
        rules: the rules for single tensors, the first of which counts.
        called: what a model is called there.
    """

    def named(word: str) -> str:
        return word if word in WORDS else called(word)

    data = {
        "rest": None if rest is None else named(rest),
        "tensors": [{"match": list(rule.match), "from": named(rule.source)} for rule in rules],
    }
    return {key: value for key, value in data.items() if value}
