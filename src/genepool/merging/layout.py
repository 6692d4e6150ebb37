"""Lines the models of a recipe up: which tensor of which model goes into which tensor of the output.

Decides from headers alone, before anything is read: layers are matched by index, a head that one model has and
another ties to its embedding is found there, what a recipe keeps of one model is taken from it, and whatever does not
fit is one error that names the tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from genepool import progress
from genepool.errors import InputError
from genepool.merging.matching import DepthConflict, Headers, Match, Missing, ShapeConflict
from genepool.merging.misfits import misfit, other_family
from genepool.merging.outputs import Depth, Input, Layout, OutputTensor
from genepool.merging.recipe import Recipe
from genepool.merging.recipe_parts import RecipePart
from genepool.merging.refusals import Refusals
from genepool.merging.slicing import Slicer
from genepool.merging.tensor_rules import TensorRules
from genepool.weights import Role, TensorInfo, Weights, vocabulary_rows
from genepool.weights.quantised import packed_as
from genepool.weights.stacks import KINDS, Stack
from genepool.weights.tensor_info import widest_dtype


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
        self.parts = recipe.parts()
        self.reference = self._reference()
        self.headers.align_to(self.reference)
        self.stacks = self.headers.stacks[self.reference]
        self.refusals = Refusals(recipe, self.headers, self._likened())
        self.rules = TensorRules(recipe, self.headers)

    def layout(self) -> Layout:
        """The layout, or one clear error.

        Raises:
            InputError: tensors that are missing or of different shapes, layers that do not exist, quantised tensors.
        """
        outputs: list[OutputTensor] = []
        depths: list[Depth] = []
        for module, names in self._modules():
            parts = [(number, part) for number, part in enumerate(self.parts) if part.module == module]
            if parts[0][1].ranges:
                made, depth = Slicer(self, module, names).outputs(parts)
                depths.append(depth)
            else:
                made = self._whole(*parts[0], names)
            outputs += made
        outputs += self._untouched(outputs, depths)
        if not outputs and any(map(self.rules.drops, self.roles[self.reference])):
            raise InputError(
                "the rules drop every tensor", where=f"{self.recipe.where}:tensors", fix="Keep or merge some of them"
            )
        if not outputs:
            raise InputError("the models have no tensors", where=self.recipe.where, fix="Check the model folders")
        if all(out.kept for out in outputs):
            raise self.refusals.nothing_shared(
                list(dict.fromkeys(e.model for part in self.parts for e in part.entries))
            )
        self._refuse_packed(outputs)
        left_out = self._left_out(outputs, depths)
        config_of = self.recipe.config if self.recipe.config != "base" else self.reference
        reference = self.sources[config_of]
        written, aliases = {out.name for out in outputs}, reference.aliases()
        copies = {name: aliases[name] for name in reference.stored_names() if name in aliases and name not in written}
        copies = {name: first for name, first in copies.items() if first in written and not self.rules.drops(name)}
        return Layout(outputs, self.reference, depths, copies, self._labels(outputs), left_out)

    # ------------------------------------------------------------------ what the output is like

    def _reference(self) -> str:
        """The model whose config the output has: the one that is asked for, or the base, or the first model."""
        if self.recipe.rest is not None:
            return self.recipe.model_called(self.recipe.rest)
        named = self.recipe.model_names()
        chosen = self.recipe.base or self.parts[0].entries[0].model
        if len(self.headers.stacks[chosen].all) == 1:
            # A text model and one that it is the language part of make one of the latter's kind.
            for other in named:
                if len(self.headers.stacks[other].proper) > 1:
                    self.headers.align_to(other)
                    if chosen in self.headers.inside:
                        return other
        return chosen

    def _likened(self) -> str:
        """The model to recommend for `rest`: a fine-tune with a head before a base without it."""
        first = self.parts[0].entries[0].model
        base = self.recipe.base
        if base is None or self.reference != base:
            return self.reference
        return first if self.roles[first].keys() - self.roles[base].keys() else base

    def _modules(self) -> list[tuple[str | None, Collection[str] | None]]:
        """The modules of the recipe with the names each covers; None for a merge of all there is."""
        if self.recipe.modules is None:
            return [(None, None)]
        covered: dict[str, set[str]] = {module: set() for module in self.recipe.modules}
        words = sorted(covered, key=_breadth)
        names = dict.fromkeys(name for model in self.sources for name in self.headers.names_as(model))
        for name in names:
            owner = next((word for word in words if self._covers(word, name)), None)
            if owner is not None:
                covered[owner].add(name)
        for word, found in covered.items():
            if not found:
                kinds = dict.fromkeys(stack.kind for stack in self.stacks.all if stack.kind)
                known = ", ".join([*kinds, "other", "or a path such as " + (self.stacks.all or [_NONE])[0].path])
                raise InputError(
                    f"{self.reference} has no module '{word}'",
                    where=f"{self.recipe.where}:modules.{word}",
                    fix=f"Known there: {known}",
                )
        return list(covered.items())

    def _covers(self, word: str, name: str) -> bool:
        if word == "other":
            return self.stacks.kind_of(name) is None
        return self.stacks.covers(word, name)

    # ------------------------------------------------------------------ whole models

    def _whole(self, number: int, part: RecipePart, names: Collection[str] | None) -> list[OutputTensor]:
        base = part.base if self.uses_base else None
        models = [entry.model for entry in part.entries]
        participants = list(dict.fromkeys([self.reference, *([base] if base else []), *models]))
        order = [*([base] if base else []), *models]
        main = self.stack_of(part.module)
        outputs = []
        for found in self._found(participants, order, main, names):
            if isinstance(found, OutputTensor):
                outputs.append(found)
                continue
            role = found.role
            outputs.append(
                OutputTensor(
                    found.name,
                    self.stored(Input(model, found.tensors[model]) for model in order),
                    Role(role.part, role.layer if main is None or role.stack == main.path else None, role.stack),
                    self._position(role),
                    Input(base, found.tensors[base]) if base else None,
                    tuple(Input(model, found.tensors[model]) for model in models),
                    tuple(role.layer for _ in models),
                    number,
                )
            )
        return outputs

    def _found(
        self,
        participants: Sequence[str],
        taking_part: Collection[str],
        main: Stack | None,
        names: Collection[str] | None,
    ) -> list[Match | OutputTensor]:
        """What all models have alike, and what is kept of one; one error for the first thing that is neither."""
        fit = self.headers.fit(participants, names)
        if self.recipe.rest is not None and (fit.missing or fit.shapes):
            reason = other_family(self.sources, participants, self.headers.inside)
            if reason is not None:
                raise self.refusals.reason(reason, ())
        found: list[Match | OutputTensor] = []
        for match in fit.matches:
            if not self.excuses(match.name, (), found):
                found.append(match)
        missing = [entry for entry in fit.missing if not self.excuses(entry.name, entry.absent, found)]
        shapes = [entry for entry in fit.shapes if not self.excuses(entry.name, (), found, differs=True)]
        path = main.path if main else ""
        if missing or shapes:
            reason = misfit(self.sources, [one for one in participants if one in taking_part], self._base())
            if reason is not None:
                raise self.refusals.reason(reason, (*missing, *shapes))
        unfit: list[Missing | ShapeConflict] = [*missing, *shapes]
        misplaced = {self.headers.role(entry.owner, entry.name).stack for entry in unfit}
        for conflict in (*fit.depths, *self._inner_depths(taking_part)):
            if conflict.stack in misplaced or (conflict.stack == path and self.headers.inside):
                raise self.refusals.depth(conflict, path)
        if missing:
            others = [entry for entry in missing if not self.headers.is_ema(entry.owner, entry.name)]
            raise self.refusals.missing(others) if others else self.refusals.ema(missing)
        if shapes:
            raise self.refusals.shapes(shapes)
        for left in fit.recomputed:
            progress.message(
                f"note: {left.name} is left out: {left.absent[0]} does not store it and every loader computes it."
            )
        return found

    def _base(self) -> str | None:
        return self.recipe.base if self.uses_base else None

    def excuses(
        self,
        name: str,
        absent: Sequence[str],
        found: list[Match | OutputTensor] | list[OutputTensor],
        *,
        differs: bool = False,
    ) -> bool:
        """Whether a tensor is not to be merged but kept or left out; what is kept is put among `found`.

        Args:
            name: the tensor.
            absent: the models that have none.
            found: where the copy goes.
            differs: whether its shapes differ.
        """
        kept = self.kept_at(name)
        if kept is None and not self.rules.drops(name):
            text_only = bool(absent) and all(model in self.headers.inside for model in absent)
            if not text_only and (self.recipe.rest is None or not (absent or differs)):
                return False
            kept = self.kept(name, self.reference) if self.headers.has(self.reference, name) else None
        if kept is not None:
            found.append(kept)
        return True

    def _inner_depths(self, models: Iterable[str]) -> list[DepthConflict]:
        """Text models of another depth than the language part that they stand for."""
        whole = self.stacks.named("text")
        own = {model: self.headers.stacks[model].all[0].layers for model in models if model in self.headers.inside}
        return [
            DepthConflict(whole.path, {self.reference: whole.layers, model: count})
            for model, count in own.items()
            if whole is not None and count != whole.layers
        ]

    def _position(self, role: Role) -> float:
        depth = next((stack.layers for stack in self.stacks.all if stack.path == role.stack), 1)
        return 0.0 if role.layer is None else (role.layer / (depth - 1) if depth > 1 else 1.0)

    def stack_of(self, module: str | None) -> Stack | None:
        """The stack that layers mean in a module, or in all."""
        named = self.stacks.named(module) if module is not None else self.stacks.main()
        if named is not None or module is not None:
            return named
        # Where none comes first, as in CLIP, the largest is as good as any for conditions on layers.
        sizes = {stack: sum(role.stack == stack.path for role in self.roles[self.reference].values())
                 for stack in self.stacks.proper}  # fmt: skip
        return max(sizes, key=lambda stack: (sizes[stack], stack.path)) if sizes else None

    # ------------------------------------------------------------------ what is not merged

    def kept(self, name: str, model: str) -> OutputTensor:
        """A tensor of the output that is a copy of one model's."""
        tensor = self.headers.find(model, name, self.reference)
        role = self.headers.role(
            *((self.reference, name) if self.headers.has(self.reference, name) else (model, tensor))
        )
        return OutputTensor(name, self.headers.info(model, tensor), role, 0.0, None, (), (), 0, Input(model, tensor))

    def kept_at(self, name: str) -> OutputTensor | None:
        """The copy that a rule asks for at a name, if one does.

        Raises:
            InputError: the model it names has no such tensor, or one that does not fit the rest of the output.
        """
        model = self.rules.source(name)
        if model is None:
            return None
        where = f"{self.recipe.where}:{self.rules.place(name)}.from"
        if not self.headers.has(self.reference, name):
            raise InputError(
                f"{self.reference}, which the result is like, has no tensor {name}",
                where=where,
                fix=f"Add `rest: {model}`, or write `from: drop`",
            )
        if not (tensor := self.headers.find(model, name, self.reference)):
            raise InputError(f"{model} has no tensor {name}", where=where, fix="Name a model that has it")
        shapes = {one: self.headers.info(one, own).shape for one, own in ((self.reference, name), (model, tensor))}
        if len(set(shapes.values())) > 1:
            conflict = self.headers.conflict(name, {self.reference: name, model: tensor}, shapes)
            if conflict.kind != "labels":
                raise self.refusals.shapes([conflict])
        return self.kept(name, model)

    def _untouched(self, outputs: Sequence[OutputTensor], depths: Sequence[Depth]) -> list[OutputTensor]:
        """What no module and no slice covers, as the reference has it."""
        if self.recipe.modules is None and not (depths and len(self.stacks.proper) > 1):
            return []
        made = {out.name for out in outputs}
        sliced = {depth.stack.path for depth in depths}
        left = [
            name
            for name, role in self.roles[self.reference].items()
            if name not in made and role.stack not in sliced and not self.rules.drops(name)
        ]
        return [self.kept_at(name) or self.kept(name, self.reference) for name in left]

    def _left_out(self, outputs: Sequence[OutputTensor], depths: Sequence[Depth]) -> dict[str, list[str]]:
        """What some model has and the output has not, apart from layers that slices leave out."""
        made = {out.name for out in outputs}
        taken: dict[str, set[str]] = {}
        for given in (given for out in outputs for given in out.reads):
            taken.setdefault(given.model, set()).add(given.tensor)
        found: dict[str, list[str]] = {}
        for model in self.roles:
            for name, own in self.headers.outer(model).items():
                # Kept of another model, or meant to go.
                is_there = name in made and model not in self.headers.inside
                layer = bool(depths) and self.roles[model][own].layer is not None
                if own not in taken.get(model, ()) and not is_there and (self.rules.drops(name) or not layer):
                    found.setdefault(model, []).append(own)
        return found

    def _labels(self, outputs: Sequence[OutputTensor]) -> str | None:
        """The model that a head with other labels than the reference's is from."""
        for out in outputs:
            given = out.kept
            if given is not None and given.model != self.reference and out.role.part == "head":
                rows = vocabulary_rows(self.sources[given.model])
                if given.tensor not in rows:
                    return given.model
        return None

    # ------------------------------------------------------------------ one tensor

    def stored(self, inputs: Iterable[Input | None]) -> TensorInfo:
        """Shape and the widest type of what goes into one tensor."""
        infos = [self.sources[given.model].info(given.tensor) for given in inputs if given]
        return infos[0].with_dtype(widest_dtype([info.dtype for info in infos]))

    def _refuse_packed(self, outputs: Sequence[OutputTensor]) -> None:
        for out in outputs:
            for given in out.reads:
                if packed := packed_as(self.sources[given.model], given.tensor):
                    raise InputError(
                        packed, where=f"{given.model}:{given.tensor}", fix="Use the unquantised checkpoint"
                    )


_NONE = Stack("model.layers", 0, None)


def _breadth(word: str) -> tuple[int, int]:
    """Orders modules by how much they say: a path before a kind, a long path before a short one."""
    if word == "other":
        return (3, 0)
    if word in KINDS:
        return (1 if word == "connector" else 2, 0)
    return (0, -word.count("."))
