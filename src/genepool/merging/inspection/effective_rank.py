"""The effective rank of changes: how many directions of a matrix a fine-tune really uses.

Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO 2007): with the
singular values s_1 ... s_q of a matrix and p_i = s_i / (s_1 + ... + s_q), it is exp(-sum of p_i ln p_i). It lies
between 1 and the rank: 1 where one direction does everything, the rank where all weigh the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from genepool.merging.inspection.changes import BLOCK, ReadRows, read_change
from genepool.merging.inspection.result import EffectiveRanks, MatrixRank
from genepool.merging.matching import Match
from genepool.weights import Weights
from genepool.weights.roles import rename_layer

if TYPE_CHECKING:
    import torch

#: Matrices computed per part and stack unless all are asked for. An eigenvalue problem costs the cube of a side: about
#: three seconds of one core for a 2048 x 8192 matrix, of which a model of a billion parameters has some fifty.
SAMPLE = 12
# Of a part with more matrices per layer than this (experts), some stand for all, so that several layers are seen.
_KINDS = 4
# Entries of one strip of a matrix on its way into a product.
_STRIP = 8 * BLOCK
_EPSILON = 2.0**-52

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix inside a tensor: the tensor itself as (first side, rest), or one expert of a fused stack."""

    match: Match
    rows: int
    columns: int
    expert: int | None = None

    @property
    def kind(self) -> str:
        """Its name without the layer: the same for all layers."""
        role = self.match.role
        name = self.match.name if role.layer is None else rename_layer(self.match.name, role, 0)
        return f"{name}#{self.expert or 0:06d}"

    def read(self, change: ReadRows, last: int, start: int, stop: int) -> torch.Tensor:
        """Rows of the matrix, (stop - start, columns), of a tensor whose last axis is `last` long."""
        stored = self.columns // last
        first = (self.expert or 0) * self.rows
        return change((first + start) * stored, (first + stop) * stored).reshape(-1, self.columns)


def find_matrices(matches: Sequence[Match], sources: Mapping[str, Weights]) -> list[_Matrix]:
    """Every matrix whose change has a rank worth knowing: two sides of two or more, float in every model.

    Kernels of convolutions count as (outputs, rest); of fused experts (experts, rows, columns) each is a matrix.
    """
    found = []
    for match in matches:
        infos = [weights.info(match.tensors[name]) for name, weights in sources.items()]
        shape = infos[0].shape
        if len(shape) < 2 or not all(info.is_float for info in infos):
            continue
        if len(shape) == 3 and re.search("expert", match.name, re.IGNORECASE):
            if min(shape[1:]) > 1:
                found += [_Matrix(match, shape[1], shape[2], expert) for expert in range(shape[0])]
        elif shape[0] > 1 and infos[0].numel >= 2 * shape[0]:
            found.append(_Matrix(match, shape[0], infos[0].numel // shape[0]))
    return found


def sample_matrices(matrices: Sequence[_Matrix], limit: int = SAMPLE) -> list[_Matrix]:
    """At most `limit` matrices of each part and stack: all kinds (q, k, v, ...) of evenly spaced layers.

    The layers are the same for every part and kind, so that their means can be compared: 3 of a stack with four kinds
    of attention matrices. A part with more than four kinds is represented by four of them, evenly spaced in the order
    of their names. Embeddings and heads are left out: they are long, and cost as much as all else together.
    """
    kinds: dict[str, dict[str, set[str]]] = {}
    layers: dict[str, set[int]] = {}
    for matrix in matrices:
        role = matrix.match.role
        if role.part not in ("embedding", "head"):
            kinds.setdefault(role.stack, {}).setdefault(role.part, set()).add(matrix.kind)
            layers.setdefault(role.stack, set()).add(role.layer or 0)
    chosen = []
    for stack, parts in kinds.items():
        shown = {part: _evenly(sorted(found), _KINDS) for part, found in parts.items()}
        most = max(len(found) for found in shown.values())
        at = _evenly(sorted(layers[stack]), max(1, limit // most))
        chosen += [
            m
            for m in matrices
            if m.match.role.stack == stack
            and (m.match.role.layer or 0) in at
            and m.kind in shown.get(m.match.role.part, ())
        ]
    return chosen


def measure_ranks(
    matrices: Sequence[_Matrix],
    available: int,
    sources: Mapping[str, Weights],
    base: str,
    advance: Callable[[], None],
) -> EffectiveRanks:
    """The effective rank of every model's change of every matrix given.

    Args:
        matrices: which.
        available: how many there would have been.
        sources: the models, opened, the base among them.
        base: its name.
        advance: called after each matrix of each model.
    """
    measured = []
    for matrix in matrices:
        match, values = matrix.match, []
        for name, weights in sources.items():
            if name == base:
                continue
            change = read_change(weights, match.tensors[name], sources[base], match.tensors[base])
            last = sources[base].info(match.tensors[base]).shape[-1]
            values.append(None if change is None else _rank_of(change, matrix, last))
            advance()
        tensor = match.name if matrix.expert is None else f"{match.name}[{matrix.expert}]"
        role, side = match.role, min(matrix.rows, matrix.columns)
        measured.append(MatrixRank(tensor, role.stack, role.layer, role.part, side, tuple(values)))
    return EffectiveRanks(tuple(measured), available)


def effective_rank(gram: torch.Tensor, longest: int) -> float | None:
    """The effective rank of a matrix, from its Gram matrix over the smaller side.

    Args:
        gram: (side, side), float64; its eigenvalues are the squares of the singular values.
        longest: the matrix's longer side. Eigenvalues below `longest` roundings of the largest are rounding
            themselves, and count as zero.

    Returns:
        Between 1 and `side`; None for a matrix of zeros, or one that holds NaN or infinity.
    """
    import torch

    if not bool(gram.isfinite().all()):
        return None
    squares = torch.linalg.eigvalsh(gram)
    largest = float(squares[-1])
    if largest <= 0:
        return None
    values = squares[squares > longest * _EPSILON * largest].sqrt()
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _rank_of(change: ReadRows, matrix: _Matrix, last: int) -> float | None:
    import torch

    rows, columns = matrix.rows, matrix.columns
    side, longest = min(rows, columns), max(rows, columns)
    gram = torch.zeros(side, side, dtype=torch.float64)
    step = max(1, _STRIP // columns)
    if rows >= columns:
        for start in range(0, rows, step):
            strip = matrix.read(change, last, start, min(start + step, rows)).to(torch.float64)
            gram += strip.T @ strip
        return effective_rank(gram, longest)
    # Strips of a wide matrix are columns, and only rows can be read: the matrix is held, in float32.
    whole = torch.empty(rows, columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        whole[start:stop] = matrix.read(change, last, start, stop)
    step = max(1, _STRIP // rows)
    for start in range(0, columns, step):
        strip = whole[:, start : start + step].to(torch.float64)
        gram += strip @ strip.T
    return effective_rank(gram, longest)


def _evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items, evenly spaced, first and last among them; the middle one when only one may be."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
