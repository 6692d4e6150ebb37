"""What an inspection found, as plain data: the facts of every model, what does not fit, and how the changes compare.

Sums are kept per layer and part, and every share is computed from them; `Inspection.to_dict` is the answer of
`genepool inspect --json`. The page and the tables read from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from genepool.merging.matching import Fit
from genepool.weights import PARTS
from genepool.weights.roles import Part

#: One number per model, in the order of `Deltas.models`; None where there is nothing to compute it from.
Row = tuple[float | None, ...]
Head = Literal["tied", "own", "none"]
Kind = Literal["depth", "missing", "shape", "vocabulary", "labels", "tokenizer", "origin", "quantised", "non-finite"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model by itself.

    Attributes:
        name: what the user calls it.
        architecture: the class its config names; None when there is no config.
        tensors, parameters: what is read; tied copies count once.
        bytes: what the tensors take as they are stored.
        dtypes: type ("BF16") of what is read -> number of tensors.
        stored: the same of the tensors in the files, where a quantised model is dequantised on reading; else empty.
        scheme: how that model is quantised ("bitsandbytes, 4 bits: NF4"); else empty.
        layers: stack ("model.layers") -> number of layers.
        parts: part -> (tensors, parameters), in the order of `PARTS`; parts it does not have are left out.
        head: whether a head shares the embedding ("tied"), is a tensor of its own, or there is none.
        tokenizer: whether tokenizer files lie beside it.
        quantised: why it counts as quantised and is not dequantised ("F8_E4M3", the method its config names); empty
            when it does not.
        non_finite: its tensors that hold NaN or infinity.
    """

    name: str
    architecture: str | None
    tensors: int
    parameters: int
    bytes: int
    dtypes: Mapping[str, int]
    stored: Mapping[str, int]
    scheme: str
    layers: Mapping[str, int]
    parts: Mapping[Part, tuple[int, int]]
    head: Head
    tokenizer: bool
    quantised: str
    non_finite: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MergeProblem:
    """Something that keeps the models from being merged: what kind, which models, and a clause that says it."""

    kind: Kind
    models: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class LayerPart:
    """The changes of one part of one layer.

    Attributes:
        stack, layer: where; layer is None outside the layers.
        part: which part.
        tensors, parameters: how much of it there is.
        base_norm: Euclidean norm of the base's entries.
        norms: Euclidean norm of each model's change.
    """

    stack: str
    layer: int | None
    part: Part
    tensors: int
    parameters: int
    base_norm: float
    norms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Deltas:
    """The models' changes from the base (task vectors), over every float tensor that all have in one shape.

    Attributes:
        base: the model they are changes from.
        models: the other models.
        cells: norms by layer and part.
        moved: share of entries each model changed at all.
        cosine: (models, models) cosines between whole task vectors.
        sign_conflict: (models, models) share of entries of opposite sign among those that both models changed.
    """

    base: str
    models: tuple[str, ...]
    cells: tuple[LayerPart, ...]
    moved: tuple[float, ...]
    cosine: tuple[Row, ...]
    sign_conflict: tuple[Row, ...]

    @property
    def tensors(self) -> int:
        """How many tensors were compared."""
        return sum(cell.tensors for cell in self.cells)

    @property
    def parameters(self) -> int:
        """How many entries were compared."""
        return sum(cell.parameters for cell in self.cells)

    @property
    def parts(self) -> list[Part]:
        """The parts there are, in the order of `PARTS`."""
        return [part for part in PARTS if any(cell.part == part for cell in self.cells)]

    @property
    def layers(self) -> list[tuple[str, int]]:
        """Every (stack, layer), from bottom to top, a decoder above its encoder."""
        stacks = sorted(dict.fromkeys(cell.stack for cell in self.cells), key=lambda stack: "decoder" in stack)
        found = {(cell.stack, cell.layer) for cell in self.cells if cell.layer is not None}
        return sorted(found, key=lambda place: (stacks.index(place[0]), place[1]))

    def relative(self, *, layer: tuple[str, int] | None = None, part: Part | None = None) -> Row:
        """The norm of each model's change, divided by the norm of the base there: of all, a layer, a part, or both."""
        cells = [
            cell
            for cell in self.cells
            if (layer is None or (cell.stack, cell.layer) == layer) and (part is None or cell.part == part)
        ]
        base = math.hypot(*(cell.base_norm for cell in cells))
        norms = [math.hypot(*(cell.norms[i] for cell in cells)) for i in range(len(self.models))]
        return tuple(norm / base if base else None for norm in norms)


@dataclass(frozen=True, slots=True)
class MatrixRank:
    """The effective rank of one matrix of each model's change; `side` is the largest it could be.

    None where a model does not change the matrix.
    """

    tensor: str
    stack: str
    layer: int | None
    part: Part
    side: int
    values: Row


@dataclass(frozen=True, slots=True)
class EffectiveRanks:
    """Effective ranks of the changes.

    Attributes:
        matrices: those that were computed.
        available: how many there are in all.
    """

    matrices: tuple[MatrixRank, ...]
    available: int

    def mean(self, *, layer: tuple[str, int] | None = None, part: Part | None = None) -> Row:
        """Mean effective rank of each model over the matrices of a layer, a part, or both; empty when none is there."""
        rows = [
            matrix.values
            for matrix in self.matrices
            if (layer is None or (matrix.stack, matrix.layer) == layer) and (part is None or matrix.part == part)
        ]
        return tuple(_mean(column) for column in zip(*rows, strict=True))


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything an inspection found.

    Attributes:
        models: the facts of each, the base first when there is one.
        base: the base's name; None for a single model.
        problems: what keeps the models from being merged; empty when they fit.
        notes: what is worth knowing and does not.
        fit: how the tensors line up, in full.
        deltas: the changes; None for a single model, and where no tensor lines up.
        ranks: their effective ranks; None where there are no deltas or they were not asked for.
    """

    models: tuple[ModelFacts, ...]
    base: str | None
    problems: tuple[MergeProblem, ...]
    notes: tuple[str, ...]
    fit: Fit
    deltas: Deltas | None
    ranks: EffectiveRanks | None

    @property
    def fits(self) -> bool:
        """Whether nothing keeps the models from being merged."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; matrices and rows are in the order of `deltas.models`."""
        return {
            "base": self.base,
            "fits": self.fits,
            "models": [
                {**asdict(facts), "parts": {part: _sizes(*sizes) for part, sizes in facts.parts.items()}}
                for facts in self.models
            ],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "compatibility": {
                "matching": len(self.fit.matches),
                "missing": [asdict(entry) for entry in self.fit.missing],
                "shapes": [
                    {"name": entry.name, "shapes": {model: list(shape) for model, shape in entry.shapes.items()}}
                    for entry in self.fit.shapes
                ],
                "depths": [{"stack": entry.stack, "layers": dict(entry.counts)} for entry in self.fit.depths],
            },
            "deltas": _deltas(self.deltas) if self.deltas else None,
            "effective_rank": _ranks(self.ranks, self.deltas) if self.ranks and self.deltas else None,
        }


def _deltas(deltas: Deltas) -> dict[str, Any]:
    return {
        "base": deltas.base,
        "models": list(deltas.models),
        "tensors": deltas.tensors,
        "parameters": deltas.parameters,
        "moved": list(deltas.moved),
        "relative_norm": {
            "all": list(deltas.relative()),
            "parts": {part: list(deltas.relative(part=part)) for part in deltas.parts},
            "layers": [_at(place, deltas.relative(layer=place)) for place in deltas.layers],
        },
        "cells": [asdict(cell) for cell in deltas.cells],
        "cosine": [list(row) for row in deltas.cosine],
        "sign_conflict": [list(row) for row in deltas.sign_conflict],
    }


def _ranks(ranks: EffectiveRanks, deltas: Deltas) -> dict[str, Any]:
    return {
        "models": list(deltas.models),
        "available": ranks.available,
        "layers": [_at(place, row) for place in deltas.layers if (row := ranks.mean(layer=place))],
        "parts": {part: list(row) for part in deltas.parts if (row := ranks.mean(part=part))},
        "matrices": [asdict(matrix) for matrix in ranks.matrices],
    }


def _at(place: tuple[str, int], values: Row) -> dict[str, Any]:
    return {"stack": place[0], "layer": place[1], "values": list(values)}


def _sizes(tensors: int, parameters: int) -> dict[str, int]:
    return {"tensors": tensors, "parameters": parameters}


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = list(_known(values))
    return sum(known) / len(known) if known else None


def _known(values: tuple[float | None, ...]) -> Iterator[float]:
    return (value for value in values if value is not None)
