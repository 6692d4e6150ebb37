"""What keeps the models of a recipe from being merged, as errors: one cause, one line, and something that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genepool.errors import InputError, listed
from genepool.merging.matching import DepthConflict, Headers, Missing, ShapeConflict, inspect_command
from genepool.merging.misfits import Misfit
from genepool.merging.recipe import Recipe
from genepool.weights.stacks import Stacks
from genepool.weights.tensor_info import shape_text


class Refusals:
    """The errors of one recipe.

    Args:
        recipe: the recipe.
        headers: its models.
        like: the model that the result would be like if only what is shared were merged.
    """

    def __init__(self, recipe: Recipe, headers: Headers, like: str) -> None:
        self._recipe, self._headers, self._like = recipe, headers, like

    def reason(self, reason: Misfit, conflicts: Sequence[Missing | ShapeConflict]) -> InputError:
        """The one reason that the models' classes give; where it is the head alone, all else can be merged."""
        fix = (self._share(conflicts) if reason.head else "") or reason.fix
        return InputError(reason.what, where=reason.where or self._recipe.where, fix=fix)

    def depth(self, conflict: DepthConflict, main: str) -> InputError:
        """Stacks of other depths; `main` is the stack that needs no naming."""
        first, *rest = conflict.counts
        other = next(model for model in rest if conflict.counts[model] != conflict.counts[first])
        where = "" if conflict.stack == main else f" in {conflict.stack}"
        return InputError(
            f"{first} has {conflict.counts[first]} layers{where} and {other} has {conflict.counts[other]}",
            where=self._recipe.where,
            fix=f"Use `slices` to say which layers go together; {self._shown(first, other)}",
        )

    def missing(self, missing: Sequence[Missing], where: str = "") -> InputError:
        """Tensors that not every model has."""
        owner, absent = missing[0].owner, missing[0].absent[0]
        names = [entry.name for entry in missing if entry.owner == owner and absent in entry.absent]
        what = f"{absent} has no tensor {names[0]}, which {owner} has"
        if len(names) > 1:
            what = f"{absent} lacks {len(names):,} tensors that {owner} has: {listed(names, 4)}"
        if len(missing) > len(names):
            what += f" (and {len(missing) - len(names):,} more that not every model has)"
        fix = self._share(missing) or "Merge models of one architecture"
        return InputError(what, where=where or self._recipe.where, fix=f"{fix}; {self._shown(owner, absent)}")

    def ema(self, missing: Sequence[Missing]) -> InputError:
        """EMA copies that not every model has."""
        owner, absent = missing[0].owner, missing[0].absent[0]
        names = [entry.name for entry in missing if entry.owner == owner]
        here = "In a recipe with `genepool: 1`, write" if self._recipe.lenient else "Write"
        return InputError(
            f"{owner} holds EMA copies beside its weights and {absent} does not: {listed(names, 3)}",
            where=self._recipe.where,
            fix=f"{here} `ema: drop` to leave them out, or `ema: use` to merge them in place of the weights",
        )

    def shapes(self, conflicts: Sequence[ShapeConflict]) -> InputError:
        """Tensors of other shapes; what a user can do most about comes first."""
        order = ("shape", "positions", "vocabulary", "labels")
        kind = next(one for one in order if any(conflict.kind == one for conflict in conflicts))
        alike = [conflict for conflict in conflicts if conflict.kind == kind]
        first = alike[0]
        owner, other = first.owner, first.differing()[0]
        mine, theirs = first.shapes[owner], first.shapes[other]
        share = self._share(conflicts)
        shown = f": {shape_text(theirs)} in {other}, {shape_text(mine)} in {owner}"
        if kind == "labels":
            what, shown = f"{owner} has {mine[0]} labels and {other} has {theirs[0]}", ""
            fix = share or "Merge classifiers of the same labels"
        elif kind == "vocabulary" and self._recipe.vocabulary != "padded":
            what = "the vocabularies differ in size"
            fix = (
                "If one only has further rows at the end, say `vocabulary: padded` in a recipe; "
                "joining them is not supported yet"
            )
        elif kind == "vocabulary":
            what, fix = "the vocabularies differ in size", share or "Give the models one tokenizer first"
        elif kind == "positions":
            what, fix = "the models hold other numbers of positions", share or "Merge models of one length and size"
        else:
            what, fix = "the shapes differ", share or "Merge models of one architecture and size"
        what += shown
        if len(alike) > 1:
            rest = [
                f"{conflict.name} ({shape_text(conflict.shapes[conflict.differing()[0]])} and "
                f"{shape_text(conflict.shapes[conflict.owner])})"
                for conflict in alike[1:]
            ]
            what += f"; {'the shapes differ in' if kind == 'labels' else 'so do those of'} {listed(rest, 4)}"
        return InputError(what, where=f"{self._recipe.where}:{first.name}", fix=f"{fix}; {self._shown(owner, other)}")

    def several_stacks(self, model: str, stacks: Stacks, where: str) -> InputError:
        """Slices of a model with several stacks, of which none comes first."""
        names = ", ".join(f"`{stacks.short(stack)}`" for stack in stacks.proper)
        return InputError(
            f"{model} has several stacks of layers: {stacks.listed()}",
            where=f"{self._recipe.where}:{where}",
            fix=f"Say which one under `modules:`, by one of {names}",
        )

    def no_stack(self, model: str, word: str, stacks: Stacks, where: str) -> InputError:
        """Slices of a module in which there is no stack, or more than one."""
        return InputError(
            f"'{word}' is not one stack of layers of {model}, which has {stacks.listed()}",
            where=f"{self._recipe.where}:{where}",
            fix="Name one of those, or a path such as " + (stacks.all[0].path if stacks.all else "model.layers"),
        )

    def nothing_shared(self, models: Sequence[str]) -> InputError:
        """Models with no tensor in common."""
        return InputError(
            f"{listed(models)} have no tensor to merge in one shape",
            where=self._recipe.where,
            fix=f"Merge models of one architecture and size; {self._shown(*models)}",
        )

    def _share(self, conflicts: Sequence[Missing | ShapeConflict]) -> str:
        """The way out for models that share most of what they are."""
        roles: Mapping[str, object] = self._headers.roles[self._like]
        if self._recipe.rest is not None or 2 * len({one.name for one in conflicts}) > len(roles):
            return ""
        add = f"run it with `--rest {self._like}`" if self._recipe.lenient else f"add `rest: {self._like}`"
        return f"To merge what they share and have the rest as in {self._like}, {add}"

    def _shown(self, *models: str) -> str:
        return f"run `{inspect_command(models, self._recipe.folder)}` to see all that differs"
