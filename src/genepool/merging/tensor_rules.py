"""The rules of a recipe for single tensors: which of them are kept, dropped, or merged after all.

Patterns are those of `genepool.weights.patterns`; they are looked for among the tensors of all models.
"""

from __future__ import annotations

from genepool.merging.matching import Headers
from genepool.merging.recipe import Recipe
from genepool.weights.patterns import Patterns


class TensorRules:
    """What a recipe says of each tensor; the first rule that fits counts.

    Args:
        recipe: the recipe.
        headers: its models.

    Raises:
        InputError: a pattern that matches no tensor of any model.
    """

    def __init__(self, recipe: Recipe, headers: Headers) -> None:
        self._recipe = recipe
        self._rules: dict[str, int] = {}
        if not recipe.tensors:
            return
        roles = {}
        for model in reversed(list(headers.sources)):
            roles.update({name: headers.role(model, tensor) for name, tensor in headers.outer(model).items()})
        patterns = Patterns(roles)
        for number, rule in enumerate(recipe.tensors):
            for name in patterns.chosen_by_any(rule.match, f"{recipe.where}:tensors[{number}].match"):
                self._rules.setdefault(name, number)

    def source(self, name: str) -> str | None:
        """The model that a tensor is kept of; None where it is not kept."""
        word = self._word(name)
        return None if word in (None, "drop", "merge") else self._recipe.model_called(str(word))

    def drops(self, name: str) -> bool:
        """Whether a tensor is left out."""
        return self._word(name) == "drop"

    def place(self, name: str) -> str:
        """Where in the recipe the rule for a tensor stands."""
        return f"tensors[{self._rules[name]}]"

    def _word(self, name: str) -> str | None:
        number = self._rules.get(name)
        return None if number is None else self._recipe.tensors[number].source
