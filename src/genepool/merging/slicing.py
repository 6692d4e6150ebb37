"""The output tensors of slices: layers from anywhere in the sources, put one upon another in one stack.

What stands before the layers is made by the first slice, what stands behind them by the last. `layout` says which
stack, and which of the other tensors belong to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.merging.matching import Missing
from genepool.merging.outputs import Depth, Input, OutputTensor
from genepool.merging.recipe_parts import LayerSource, RecipePart
from genepool.merging.tensor_order import TensorOrder
from genepool.weights import Role
from genepool.weights.roles import layer_counts
from genepool.weights.stacks import Stack

if TYPE_CHECKING:
    from genepool.merging.layout import Aligner

Numbered = tuple[int, RecipePart]


class Slicer:
    """The slices of one stack.

    Args:
        aligner: the models, lined up.
        module: the module that the slices make; None when the recipe names none.
        names: the tensors of the module; None for all that goes with the stack.

    Raises:
        InputError: there is no such stack, or several.
    """

    def __init__(self, aligner: Aligner, module: str | None, names: Collection[str] | None) -> None:
        self._aligner, self._headers, self._names = aligner, aligner.headers, names
        self._where = aligner.recipe.where
        self._stack = self._chosen(module)

    def outputs(self, parts: Sequence[Numbered]) -> tuple[list[OutputTensor], Depth]:
        """Every tensor of the module, the layers in the order of the slices."""
        made: list[OutputTensor] = []
        first, last = parts[0], parts[-1]
        before, _ = self._loose(first)
        _, behind = self._loose(last)
        for name in before:
            made += self._outside(name, first)
        origin: list[int] = []
        for number, part in parts:
            self._check_ranges(part)
            made += self._layers(number, part, len(origin))
            origin += range(*part.ranges[0])
        for name in behind:
            made += self._outside(name, last)
        return made, Depth(self._stack, tuple(origin))

    def _chosen(self, module: str | None) -> Stack:
        aligner = self._aligner
        model, stacks = aligner.reference, aligner.stacks
        place = f"modules.{module}.slices" if module is not None else "slices"
        if not stacks.all:
            raise InputError(f"{model} has no numbered layers to slice", where=f"{self._where}:{place}")
        found = stacks.main() if module is None else stacks.named(module)
        if found is not None:
            return found
        if module is None:
            raise aligner.refusals.several_stacks(model, stacks, place)
        raise aligner.refusals.no_stack(model, module, stacks, place)

    def _covers(self, name: str) -> bool:
        if self._names is not None:
            return name in self._names
        stacks = self._aligner.stacks
        return len(stacks.proper) < 2 or stacks.kind_of(name) == self._stack.kind

    def _path(self, model: str) -> str:
        """What the stack is called in a model."""
        stacks = self._headers.stacks[model]
        return stacks.all[0].path if model in self._headers.inside else self._stack.path

    def _loose(self, of: Numbered) -> tuple[list[str], list[str]]:
        """Names of what stands before and behind the layers, in the output."""
        owner = of[1].entries[0].model
        before: list[str] = []
        behind: list[str] = []
        order = TensorOrder(self._headers, owner, self._path(owner))
        for name, own in self._headers.outer(owner).items():
            if self._covers(name) and self._headers.role(owner, own).stack != self._path(owner):
                (before if order.before(own) else behind).append(name)
        return before, behind

    def _outside(self, name: str, of: Numbered) -> list[OutputTensor]:
        number, part = of
        owner = part.entries[0].model
        models = self._models(part)
        base = part.base if self._aligner.uses_base else None
        found = {one: self._headers.find(one, name, owner) for one in (*models, *([base] if base else []))}
        absent = tuple(one for one, tensor in found.items() if not tensor)
        kept: list[OutputTensor] = []
        if self._aligner.excuses(name, absent, kept):
            return kept
        if absent:
            raise self._aligner.refusals.missing([Missing(name, owner, absent)], f"{self._where}:{self._slice(part)}")
        role = self._headers.role(owner, self._headers.outer(owner)[name])
        place = Role(role.part, None, role.stack)
        return [self._made(name, place, 0.0, found, base, models, [None] * len(models), number)]

    def _layers(self, number: int, part: RecipePart, depth: int) -> list[OutputTensor]:
        owner = part.entries[0].model
        models = self._models(part)
        base = part.base if self._aligner.uses_base else None
        starts = {entry.model: entry.layer_range[0] for entry in part.entries if isinstance(entry, LayerSource)}
        begin = part.ranges[0][0]
        path = self._path(owner)
        made = []
        for step in range(part.length):
            position = step / (part.length - 1) if part.length > 1 else 1.0
            for own, role in self._headers.roles[owner].items():
                if role.stack != path or role.layer != begin + step:
                    continue
                tail = own[len(f"{path}.{role.layer}" if path else str(role.layer)) :]
                name = self._numbered(self._stack.path, depth + step) + tail
                if self._aligner.rules.drops(name):
                    continue
                if (kept := self._aligner.kept_at(name)) is not None:
                    made.append(kept)
                    continue
                found = {}
                for one in (*models, *([base] if base else [])):
                    wanted = self._numbered(self._path(one), starts.get(one, begin) + step) + tail
                    if not self._headers.has(one, wanted):
                        missing = [Missing(wanted, owner, (one,))]
                        raise self._aligner.refusals.missing(missing, f"{self._where}:{self._slice(part)}")
                    found[one] = wanted
                layers = [starts[model] + step for model in models]
                place = Role(role.part, depth + step, self._stack.path)
                made.append(self._made(name, place, position, found, base, models, layers, number))
        return made

    def _made(
        self,
        name: str,
        role: Role,
        position: float,
        found: dict[str, str],
        base: str | None,
        models: Sequence[str],
        layers: Sequence[int | None],
        number: int,
    ) -> OutputTensor:
        shapes = {model: self._headers.info(model, tensor).shape for model, tensor in found.items()}
        if len(set(shapes.values())) > 1:
            raise self._aligner.refusals.shapes([self._headers.conflict(name, found, shapes)])
        base_input = Input(base, found[base]) if base else None
        inputs = tuple(Input(model, found[model]) for model in models)
        stored = self._aligner.stored((base_input, *inputs))
        return OutputTensor(name, stored, role, position, base_input, inputs, tuple(layers), number)

    def _models(self, part: RecipePart) -> list[str]:
        base = part.base if self._aligner.uses_base else None
        models = [entry.model for entry in part.entries if entry.model != base]
        if not models:
            raise InputError("a slice with nothing but the base", where=f"{self._where}:{part.place}")
        return models

    def _check_ranges(self, part: RecipePart) -> None:
        for j, source in enumerate(part.entries):
            assert isinstance(source, LayerSource)
            count = layer_counts(self._headers.roles[source.model]).get(self._path(source.model), 0)
            if source.layer_range[1] > count:
                raise InputError(
                    f"layer_range {list(source.layer_range)} of {source.model}, which has {count} layers",
                    where=f"{self._where}:{part.place}[{j}].layer_range",
                    fix=f"End it at {count} or before",
                )

    @staticmethod
    def _slice(part: RecipePart) -> str:
        return part.place.removesuffix(".sources")

    @staticmethod
    def _numbered(path: str, layer: int) -> str:
        return f"{path}.{layer}" if path else str(layer)
