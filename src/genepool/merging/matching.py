"""Which tensor of one model stands for which of another, and everything that stands for nothing.

Reads headers only. The layout of a merge stops at the first thing that does not fit; `genepool inspect` lists them
all; both ask here. Lookups are by hash, so ten thousand tensors are matched as easily as ten.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from genepool.weights import Role, TensorInfo, Weights, infer_roles, vocabulary_rows
from genepool.weights.architecture import Naming, architecture_of
from genepool.weights.ema import EmaCopies, ema_copies
from genepool.weights.roles import layer_counts
from genepool.weights.stacks import Stacks, text_part
from genepool.weights.ties import tied_names

# Buffers that some versions of a model store and others compute; nothing is lost without them. A class that is known is
# asked which stored tensors it has no use for.
_RECOMPUTED = ("inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids")


@dataclass(frozen=True, slots=True)
class Match:
    """One tensor that every model has, in the same shape.

    Attributes:
        name: its name in `owner`, the first model that has it.
        owner: that model.
        role: the part it plays there.
        tensors: model -> its name there; another name only where it is tied to that tensor.
    """

    name: str
    owner: str
    role: Role
    tensors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Missing:
    """A tensor that `owner` has and the models in `absent` have not."""

    name: str
    owner: str
    absent: tuple[str, ...]


# What differs between two tensors of one name: the number of tokens, of labels, of places in a text or an image, or
# anything else.
Differing = Literal["vocabulary", "labels", "positions", "shape"]


@dataclass(frozen=True, slots=True)
class ShapeConflict:
    """A tensor that has not the same shape everywhere.

    Attributes:
        name: its name in `owner`, the first model that has it.
        owner: that model.
        role: the part it plays there.
        shapes: by model, the owner's first.
        kind: what of it differs.
    """

    name: str
    owner: str
    role: Role
    shapes: Mapping[str, tuple[int, ...]]
    kind: Differing = "shape"

    def differing(self) -> list[str]:
        """The models whose shape is not the owner's."""
        return [model for model, shape in self.shapes.items() if shape != self.shapes[self.owner]]


@dataclass(frozen=True, slots=True)
class DepthConflict:
    """A stack of layers ("model.layers") that has not the same number of them everywhere; `counts` by model."""

    stack: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """How several models line up.

    Attributes:
        matches: what all of them have alike.
        missing: tensors not all of them have; those of surplus layers included.
        shapes: tensors of different shapes.
        depths: stacks of different depth.
        recomputed: buffers that not all of them store and every loader computes, by name, with the models without.
    """

    matches: tuple[Match, ...]
    missing: tuple[Missing, ...]
    shapes: tuple[ShapeConflict, ...]
    depths: tuple[DepthConflict, ...]
    recomputed: tuple[Missing, ...]


class Headers:
    """What the headers of several models say, looked up by name.

    Args:
        sources: the models, opened.

    Attributes:
        roles: model -> tensor -> the part it plays, of every tensor that is stored once.
    """

    def __init__(self, sources: Mapping[str, Weights]) -> None:
        self.sources = sources
        self.roles = {model: _roles(weights) for model, weights in sources.items()}
        self._names = {model: {*roles, *sources[model].aliases()} for model, roles in self.roles.items()}
        self._tied: dict[str, dict[str, str]] = {}
        self._namings: dict[str, Naming | None] = {}
        self._copies: dict[str, EmaCopies] = {}
        # Of text models beside one that they are a part of: its names -> theirs.
        self.inside: dict[str, dict[str, str]] = {}
        self._vocabulary: dict[str, dict[str, int]] = {}

    def align_to(self, reference: str) -> None:
        """Takes models that are the language part of `reference` for that: from now on its names are looked for."""
        roles, config = self.roles[reference], self.sources[reference].config
        parts = {model: text_part(roles, config, self.roles[model]) for model in self.roles if model != reference}
        self.inside = {model: names for model, names in parts.items() if names}

    @cached_property
    def stacks(self) -> dict[str, Stacks]:
        """The stacks of layers of every model."""
        return {model: Stacks(roles, self.sources[model].config) for model, roles in self.roles.items()}

    def has(self, model: str, name: str) -> bool:
        """Whether the model has a tensor of this name, tied ones included."""
        return name in self._names[model]

    def role(self, model: str, name: str) -> Role:
        """The part a tensor plays; of a tied tensor, the part its own name says."""
        return self.roles[model].get(name) or infer_roles({name: self.sources[model].info(name)})[name]

    def info(self, model: str, name: str) -> TensorInfo:
        """Shape and stored type."""
        return self.sources[model].info(name)

    def find(self, model: str, name: str, owner: str) -> str:
        """The tensor of `model` that plays the part of `owner`'s tensor `name`; empty when there is none."""
        if model in self.inside and model != owner:
            return self.inside[model].get(name, "")
        if name in self._names[model]:
            return name
        # A tensor that one model ties to another (a head to the embedding) and the owner has as its own.
        if model not in self._tied:
            self._tied[model] = tied_names(self.sources[model])
        tied = self._tied[model]
        return next((tied[inside] for inside in self.in_memory(owner, name) if inside in tied), "") if tied else ""

    def in_memory(self, owner: str, name: str) -> tuple[str, ...]:
        """The names in memory that a tensor goes into; its own where the class is not known."""
        naming = self._naming(owner)
        return (name,) if naming is None else naming.in_memory(name)

    def class_order(self, model: str) -> dict[str, int]:
        """The place of every tensor in memory among those of the model's class; empty where it is not known."""
        architecture = architecture_of(self.sources[model].config)
        return {} if architecture is None else {name: place for place, name in enumerate(architecture.tensors)}

    def setting(self, model: str, key: str) -> object:
        """What the config of a model says at a key, defaults included; None where its class is not known."""
        architecture = architecture_of(self.sources[model].config)
        return None if architecture is None else architecture.settings.get(key)

    def _computed(self, owner: str, name: str) -> bool:
        """Whether every loader computes a tensor that the owner stores."""
        if self.is_ema(owner, name):
            return False
        naming = self._naming(owner)
        return any(text in name for text in _RECOMPUTED) if naming is None else not naming.in_memory(name)

    def is_ema(self, model: str, name: str) -> bool:
        """Whether a tensor is an EMA copy of a weight beside it, or belongs to such copies."""
        if model not in self._copies:
            self._copies[model] = ema_copies(self.sources[model])
        return name in self._copies[model]

    def _naming(self, model: str) -> Naming | None:
        if model not in self._namings:
            weights = self.sources[model]
            architecture = architecture_of(weights.config)
            stored = {*weights.names(), *weights.aliases()}
            self._namings[model] = None if architecture is None else architecture.naming(stored)
        return self._namings[model]

    def names_as(self, model: str) -> list[str]:
        """The tensors of a model by the names they have in the one it was aligned to, those it has no place for not."""
        return list(self.inside[model] if model in self.inside else self.sources[model].names())

    def outer(self, model: str) -> dict[str, str]:
        """The same with the names they have in the model itself, those without a place under their own."""
        inside = self.inside.get(model, {})
        taken = set(inside.values())
        return {**inside, **{name: name for name in self.roles[model] if name not in taken}}

    def conflict(self, name: str, found: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> ShapeConflict:
        """What differs between tensors that stand for each other and are of other shapes, the owner's first."""
        owner = next(iter(found))
        role = self.role(owner, name)
        return ShapeConflict(name, owner, role, shapes, self._differing(role, found, shapes))

    def _tokens(self, model: str) -> dict[str, int]:
        """Its tensors with a row for each token."""
        if model not in self._vocabulary:
            self._vocabulary[model] = vocabulary_rows(self.sources[model])
        return self._vocabulary[model]

    def _differing(self, role: Role, found: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Differing:
        one_row = len({len(shape) for shape in shapes.values()}) == 1 and len({s[1:] for s in shapes.values()}) == 1
        if not one_row or role.layer is not None or role.part not in ("embedding", "head"):
            return "shape"
        if all(tensor in self._tokens(model) for model, tensor in found.items()):
            return "vocabulary"
        return "labels" if role.part == "head" else "positions"

    def fit(self, models: Sequence[str], only: Collection[str] | None = None) -> Fit:
        """Lines the models up by the names of their tensors.

        Args:
            models: which of them, the reference first: orders the result and owns what it has.
            only: the names that count; all of them when None.
        """
        matches: list[Match] = []
        missing: list[Missing] = []
        recomputed: list[Missing] = []
        shapes: list[ShapeConflict] = []
        names = dict.fromkeys(name for model in models for name in self.names_as(model))
        for name in names if only is None else (name for name in names if name in only):
            owner = next(model for model in models if self.has(model, name) and model not in self.inside)
            found = {model: self.find(model, name, owner) for model in models}
            absent = tuple(model for model, tensor in found.items() if not tensor)
            if absent:
                (recomputed if self._computed(owner, name) else missing).append(Missing(name, owner, absent))
                continue
            sizes = {owner: self.info(owner, name).shape}
            sizes.update((model, self.info(model, tensor).shape) for model, tensor in found.items())
            if len(set(sizes.values())) > 1:
                shapes.append(self.conflict(name, {owner: found[owner], **found}, sizes))
            else:
                matches.append(Match(name, owner, self.role(owner, name), found))
        return Fit(tuple(matches), tuple(missing), tuple(shapes), tuple(self._depths(models)), tuple(recomputed))

    def _depths(self, models: Sequence[str]) -> list[DepthConflict]:
        counts = {model: layer_counts(self.roles[model]) for model in models}
        stacks = dict.fromkeys(stack for model in models for stack in counts[model])
        conflicts = []
        for stack in stacks:
            having = {model: counts[model][stack] for model in models if stack in counts[model]}
            if len(set(having.values())) > 1:
                conflicts.append(DepthConflict(stack, having))
        return conflicts


def inspect_command(models: Iterable[str], folder: Path | None = None) -> str:
    """The command that shows how models fit together, as it can be pasted into a shell.

    Args:
        models: their names, as a recipe or a command line has them.
        folder: what relative paths among them start from; the working directory when None.
    """
    return " ".join(["genepool inspect", *(shlex.quote(_from_here(model, folder)) for model in models)])


def _from_here(model: str, folder: Path | None) -> str:
    if folder is None:
        return model
    pieces = [model] if (folder / model).exists() else model.split("+")
    return "+".join(_path_from_here(piece, folder) for piece in pieces)


def _path_from_here(piece: str, folder: Path) -> str:
    path = folder / piece
    if Path(piece).is_absolute() or not path.exists():
        return piece
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _roles(weights: Weights) -> dict[str, Role]:
    return infer_roles({name: weights.info(name) for name in weights.names()})
