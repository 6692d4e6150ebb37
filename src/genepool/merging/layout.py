"""Lines the models of a recipe up: which tensor of which model goes into which tensor of the output.

Decides from headers alone, before anything is read: layers are matched by index, a head that one model has and
another ties to its embedding is found there, and whatever does not fit is one error that names the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from genepool import progress
from genepool.errors import InputError, listed
from genepool.merging.matching import DepthConflict, Headers, Match, Missing, ShapeConflict, inspect_command
from genepool.merging.misfits import misfit
from genepool.merging.recipe import LayerSource, Recipe, Slice
from genepool.weights import Role, TensorInfo, Weights
from genepool.weights.quantised import packed_as
from genepool.weights.roles import layer_counts, main_stack, rename_layer
from genepool.weights.tensor_info import shape_text, widest_dtype


@dataclass(frozen=True)
class Input:
    """One model's tensor that goes into an output tensor."""

    model: str
    tensor: str


@dataclass
class OutputTensor:
    """One tensor of the output and what it is made from.

    Attributes:
        name: its name in the output.
        info: its shape, and the widest type any model stores it in.
        role: its part, and its layer in the output.
        position: how far through its slice the layer is, 0 to 1; 0 outside the layers.
        base: the base's tensor; None when the merge has no base.
        inputs: the models' tensors, in the recipe's order.
        input_layers: the layer each input has in its own model.
        part: which slice of the recipe it belongs to; 0 when there are none.
    """

    name: str
    info: TensorInfo
    role: Role
    position: float
    base: Input | None
    inputs: tuple[Input, ...]
    input_layers: tuple[int | None, ...]
    part: int


@dataclass
class Layout:
    """Every output tensor, in the order they are written.

    Attributes:
        outputs: the tensors.
        layers: number of layers of the output's main stack; None when the models have none.
        layer_origin: for each output layer, the layer of the first source it came from.
        copies: second names under which the reference stores a tensor all the same -> the output of that tensor.
    """

    outputs: list[OutputTensor]
    layers: int | None = None
    layer_origin: list[int] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)


class Aligner:
    """Builds the `Layout` of one recipe.

    Args:
        recipe: the recipe, checked.
        sources: every model it names, opened.
        uses_base: whether the method merges relative to a base.
    """

    def __init__(self, recipe: Recipe, sources: Mapping[str, Weights], uses_base: bool) -> None:
        self.recipe, self.sources, self.uses_base = recipe, sources, uses_base
        self.headers = Headers(sources)
        self.roles = self.headers.roles

    def layout(self) -> Layout:
        """The layout, or one clear error.

        Raises:
            InputError: tensors that are missing or of different shapes, layers that do not exist, quantised tensors.
        """
        outputs = self._whole_models() if self.recipe.models is not None else self._from_slices()
        if not outputs:
            raise InputError("the models have no tensors", where=self.recipe.where, fix="Check the model folders")
        self._refuse_quantised(outputs)
        reference = self.sources[self.recipe.config_model()]
        made, aliases = {out.name for out in outputs}, reference.aliases()
        copies = {name: aliases[name] for name in reference.stored_names() if name in aliases and name not in made}
        layout = Layout(outputs, copies={name: first for name, first in copies.items() if first in made})
        if self.recipe.slices is not None:
            layout.layers = sum(
                part.sources[0].layer_range[1] - part.sources[0].layer_range[0] for part in self.recipe.slices
            )
            layout.layer_origin = [
                layer for part in self.recipe.slices for layer in range(*part.sources[0].layer_range)
            ]
        return layout

    # ------------------------------------------------------------------ whole models

    def _whole_models(self) -> list[OutputTensor]:
        base = self.recipe.base if self.uses_base else None
        models = [entry.model for entry in self.recipe.models or []]
        participants = list(dict.fromkeys(([base] if base else []) + models))
        reference = base or models[0]
        stack = main_stack(self.roles[reference])
        layers = layer_counts(self.roles[reference])
        outputs = []
        for match in self._matches(participants):
            role = match.role
            depth = layers.get(role.stack, 1)
            position = 0.0 if role.layer is None else (role.layer / (depth - 1) if depth > 1 else 1.0)
            base_input = Input(base, match.tensors[base]) if base else None
            inputs = tuple(Input(model, match.tensors[model]) for model in models)
            outputs.append(
                OutputTensor(
                    match.name,
                    self._stored((base_input, *inputs)),
                    Role(role.part, role.layer if role.stack == stack else None, role.stack),
                    position,
                    base_input,
                    inputs,
                    tuple(role.layer for _ in models),
                    0,
                )
            )
        return outputs

    def _matches(self, participants: Sequence[str]) -> Sequence[Match]:
        """What all models have alike; one error for the first kind of thing that they have not."""
        fit = self.headers.fit(participants)
        if fit.depths or fit.missing or fit.shapes:
            reason = misfit(self.sources, participants, self.recipe.base if self.uses_base else None)
            if reason is not None:
                raise InputError(reason.what, where=reason.where or self.recipe.where, fix=reason.fix)
        if fit.depths:
            raise self._wrong_depth(fit.depths[0])
        if fit.missing:
            raise self._missing(fit.missing)
        if fit.shapes:
            raise self._wrong_shapes(fit.shapes)
        for left in fit.recomputed:
            progress.message(
                f"note: {left.name} is left out: {left.absent[0]} does not store it and every loader computes it."
            )
        return fit.matches

    # ------------------------------------------------------------------ slices

    def _from_slices(self) -> list[OutputTensor]:
        parts = self.recipe.slices or []
        first, last = parts[0], parts[-1]
        outputs = []
        reference = first.sources[0].model
        roles = self.roles[reference]
        stack = main_stack(roles)
        if not stack and not any(role.layer is not None for role in roles.values()):
            raise InputError(f"{reference} has no numbered layers to slice", where=f"{self.recipe.where}:slices")
        for name, role in roles.items():
            if role.part == "embedding" and role.layer is None:
                outputs.append(self._slice_output(name, name, role, 0.0, first, 0, None))
        depth = 0
        for number, part in enumerate(parts):
            begin, end = part.sources[0].layer_range
            self._check_ranges(part, number, stack)
            source_roles = self.roles[part.sources[0].model]
            for step in range(end - begin):
                position = step / (end - begin - 1) if end - begin > 1 else 1.0
                for name, role in source_roles.items():
                    if role.stack == stack and role.layer == begin + step:
                        output = rename_layer(name, role, depth + step)
                        out_role = Role(role.part, depth + step, stack)
                        outputs.append(self._slice_output(output, name, out_role, position, part, number, step))
            depth += end - begin
        for name, role in self.roles[last.sources[0].model].items():
            if role.layer is None and role.part != "embedding":
                outputs.append(self._slice_output(name, name, role, 0.0, last, len(parts) - 1, None))
        return outputs

    def _slice_output(
        self, output: str, name: str, role: Role, position: float, part: Slice, number: int, step: int | None
    ) -> OutputTensor:
        base = (part.base or self.recipe.base) if self.uses_base else None
        owner = part.sources[0].model
        owner_role = self.roles[owner][name]
        sources = [source for source in part.sources if source.model != base]
        if not sources:
            raise InputError("a slice with nothing but the base", where=f"{self.recipe.where}:slices[{number}].sources")

        def tensor_of(model: str, source: LayerSource) -> str:
            wanted = name
            if step is not None:
                wanted = rename_layer(name, owner_role, source.layer_range[0] + step)
            found = self.headers.find(model, wanted, owner)
            if not found:
                raise self._missing([Missing(wanted, owner, (model,))], f"{self.recipe.where}:slices[{number}]")
            return found

        base_source = next((s for s in part.sources if s.model == base), part.sources[0])
        found = {source.model: tensor_of(source.model, source) for source in sources}
        inputs = tuple(Input(source.model, found[source.model]) for source in sources)
        base_input = Input(base, tensor_of(base, base_source)) if base else None
        shapes = {owner: self.headers.info(owner, name).shape}
        for given in (*inputs, *((base_input,) if base_input else ())):
            shapes[given.model] = self.headers.info(given.model, given.tensor).shape
        if len(set(shapes.values())) > 1:
            raise self._wrong_shapes([ShapeConflict(output, owner, owner_role, shapes)])
        return OutputTensor(
            output,
            self._stored((base_input, *inputs)),
            role,
            position,
            base_input,
            inputs,
            tuple(None if step is None else source.layer_range[0] + step for source in sources),
            number,
        )

    def _check_ranges(self, part: Slice, number: int, stack: str) -> None:
        for j, source in enumerate(part.sources):
            count = layer_counts(self.roles[source.model]).get(stack, 0)
            if source.layer_range[1] > count:
                raise InputError(
                    f"layer_range {list(source.layer_range)} of {source.model}, which has {count} layers",
                    where=f"{self.recipe.where}:slices[{number}].sources[{j}].layer_range",
                    fix=f"End it at {count} or before",
                )

    # ------------------------------------------------------------------ what does not fit

    def _wrong_depth(self, conflict: DepthConflict) -> InputError:
        first, *rest = conflict.counts
        other = next(model for model in rest if conflict.counts[model] != conflict.counts[first])
        where = (
            "" if conflict.stack in {main_stack(roles) for roles in self.roles.values()} else f" in {conflict.stack}"
        )
        return InputError(
            f"{first} has {conflict.counts[first]} layers{where} and {other} has {conflict.counts[other]}",
            where=self.recipe.where,
            fix=f"Use `slices` to say which layers go together; {self._shown(first, other)}",
        )

    def _missing(self, missing: Sequence[Missing], where: str = "") -> InputError:
        owner, absent = missing[0].owner, missing[0].absent[0]
        names = [entry.name for entry in missing if entry.owner == owner and absent in entry.absent]
        what = f"{absent} has no tensor {names[0]}, which {owner} has"
        if len(names) > 1:
            what = f"{absent} lacks {len(names):,} tensors that {owner} has: {listed(names, 4)}"
        if len(missing) > len(names):
            what += f" (and {len(missing) - len(names):,} more that not every model has)"
        return InputError(
            what,
            where=where or self.recipe.where,
            fix=f"Merge models of one architecture and depth; {self._shown(owner, absent)}",
        )

    def _wrong_shapes(self, conflicts: Sequence[ShapeConflict]) -> InputError:
        first = conflicts[0]
        owner, other = first.owner, first.differing()[0]
        # What a user can do something about comes first: more tokens in one model than in another.
        tokens = any(conflict.role.part == "embedding" for conflict in conflicts)
        if not tokens and all(conflict.is_vocabulary for conflict in conflicts):
            what, fix = "the heads have other numbers of classes", "Merge models that tell the same classes apart"
        elif all(conflict.is_vocabulary for conflict in conflicts):
            what = "the vocabularies differ in size"
            fix = (
                "If one only has further rows at the end, say `vocabulary: padded` in a recipe; "
                "joining them is not supported yet"
            )
        else:
            what, fix = "the shapes differ", "Merge models of one architecture and size"
        what += f": {shape_text(first.shapes[other])} in {other}, {shape_text(first.shapes[owner])} in {owner}"
        if len(conflicts) > 1:
            rest = [
                f"{conflict.name} ({shape_text(conflict.shapes[conflict.differing()[0]])} and "
                f"{shape_text(conflict.shapes[conflict.owner])})"
                for conflict in conflicts[1:]
            ]
            what += f"; so do those of {listed(rest, 4)}"
        return InputError(what, where=f"{self.recipe.where}:{first.name}", fix=f"{fix}; {self._shown(owner, other)}")

    def _shown(self, *models: str) -> str:
        return f"run `{inspect_command(models, self.recipe.folder)}` to see all that differs"

    # ------------------------------------------------------------------ one tensor

    def _stored(self, inputs: Iterable[Input | None]) -> TensorInfo:
        infos = [self.sources[given.model].info(given.tensor) for given in inputs if given]
        return infos[0].with_dtype(widest_dtype([info.dtype for info in infos]))

    def _refuse_quantised(self, outputs: Sequence[OutputTensor]) -> None:
        for out in outputs:
            for given in (*out.inputs, *((out.base,) if out.base else ())):
                if packed := packed_as(self.sources[given.model], given.tensor):
                    raise InputError(
                        packed, where=f"{given.model}:{given.tensor}", fix="Use the unquantised checkpoint"
                    )
