"""Norms, cosines and sign conflicts of task vectors, and NaN or infinity on the way, in one pass over the models.

A block of rows of one tensor at a time is in memory, of every model the same block. Products are summed in float64, so
the result does not depend on where blocks end but for the last few of sixteen digits; counts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from genepool.merging.inspection.changes import ReadRows, read_change, row_blocks
from genepool.merging.inspection.result import Deltas, LayerPart, Row
from genepool.merging.matching import Match
from genepool.weights import Weights
from genepool.weights.roles import Part

if TYPE_CHECKING:
    import torch

# float32 counts whole numbers exactly up to 2**24; a single row may be longer than a block.
_COUNTED = 1 << 20

_Place = tuple[str, int | None, Part]


class _Sums:
    """Products and counts over some entries: of the base, and between every two of `k` models.

    Attributes:
        tensors, parameters: how much was summed.
        base: the sum of the base's squares.
        products: (k, k) sums of products of changes.
        both: (k, k) entries that both models changed.
        balance: (k, k) those changed with equal signs less those changed with opposite signs.
    """

    def __init__(self, k: int) -> None:
        import torch

        self.tensors = self.parameters = 0
        self.base = 0.0
        self.products, self.both, self.balance = (torch.zeros(k, k, dtype=torch.float64) for _ in range(3))

    def observe(self, base: torch.Tensor, changes: torch.Tensor, models: torch.Tensor) -> None:
        """Adds one block: `base` (n,), and `changes` (m, n) of those models that change the tensor at all."""
        import torch

        entries = base.to(torch.float64)
        self.base += float(entries @ entries)
        if len(models):
            rows, columns = models[:, None], models[None, :]
            for start in range(0, changes.shape[1], _COUNTED):
                part = changes[:, start : start + _COUNTED]
                exact, signs = part.to(torch.float64), part.sign()
                moved = signs.abs()
                self.products[rows, columns] += exact @ exact.T
                self.both[rows, columns] += (moved @ moved.T).to(torch.float64)
                self.balance[rows, columns] += (signs @ signs.T).to(torch.float64)

    def add(self, other: _Sums) -> None:
        """Adds what another has summed."""
        self.tensors += other.tensors
        self.parameters += other.parameters
        self.base += other.base
        self.products += other.products
        self.both += other.both
        self.balance += other.balance

    @property
    def finite(self) -> bool:
        """Whether every entry was: squares of float32 numbers cannot overflow float64."""
        return math.isfinite(self.base) and bool(self.products.diagonal().isfinite().all())


def compare_task_vectors(
    matches: Sequence[Match], sources: Mapping[str, Weights], base: str, advance: Callable[[float], None]
) -> tuple[Deltas | None, dict[str, list[str]]]:
    """Compares every model's change from the base.

    Args:
        matches: tensors that all models have alike; those that are not of a float type everywhere are passed over.
        sources: the models, opened, the base among them.
        base: its name.
        advance: told the bytes of every tensor that is done.

    Returns:
        The comparison, None when there is no float tensor to compare; and the tensors that hold NaN or infinity, by
        model. Where one model's does, the tensor is left out for all, so that the others' numbers stay comparable.
    """
    models = [name for name in sources if name != base]
    cells: dict[_Place, _Sums] = {}
    spoilt: dict[str, list[str]] = {name: [] for name in sources}
    for match in matches:
        infos = [weights.info(match.tensors[name]) for name, weights in sources.items()]
        sums = _sum_tensor(match, sources, base, models) if all(info.is_float for info in infos) else None
        if sums is not None and sums.finite:
            place = (match.role.stack, match.role.layer, match.role.part)
            cells.setdefault(place, _Sums(len(models))).add(sums)
        else:
            for name, weights in sources.items():
                if not is_finite(weights, match.tensors[name]):
                    spoilt[name].append(match.tensors[name])
        advance(sum(info.nbytes for info in infos))
    return (_compared(base, models, cells) if cells else None), spoilt


def is_finite(weights: Weights, tensor: str) -> bool:
    """Whether no entry of a tensor is NaN or infinite; read in blocks, and true of types that cannot hold either."""
    info = weights.info(tensor)
    if not info.is_float:
        return True
    return all(bool(weights.read_rows(tensor, *block).isfinite().all()) for block in row_blocks(info))


def _sum_tensor(match: Match, sources: Mapping[str, Weights], base: str, models: Sequence[str]) -> _Sums:
    import torch

    sums = _Sums(len(models))
    base_tensor = match.tensors[base]
    info = sources[base].info(base_tensor)
    changes: list[ReadRows] = []
    changing: list[int] = []
    for i, model in enumerate(models):
        change = read_change(sources[model], match.tensors[model], sources[base], base_tensor)
        if change is not None:
            changes.append(change)
            changing.append(i)
    sums.tensors, sums.parameters = 1, info.numel
    places = torch.tensor(changing, dtype=torch.long)
    for block in row_blocks(info):
        theirs = sources[base].read_rows(base_tensor, *block).to(torch.float32).reshape(-1)
        ours = [change(*block).reshape(-1) for change in changes]
        sums.observe(theirs, torch.stack(ours) if ours else torch.empty(0, len(theirs)), places)
    return sums


def _compared(base: str, models: Sequence[str], cells: Mapping[_Place, _Sums]) -> Deltas:
    k = len(models)
    total = _Sums(k)
    for sums in cells.values():
        total.add(sums)
    products, both, balance = (matrix.tolist() for matrix in (total.products, total.both, total.balance))

    def cosine(i: int, j: int) -> float | None:
        scale = math.sqrt(products[i][i] * products[j][j])
        return min(max(products[i][j] / scale, -1.0), 1.0) if scale else None

    def conflict(i: int, j: int) -> float | None:
        return (both[i][j] - balance[i][j]) / 2 / both[i][j] if both[i][j] else None

    def matrix(entry: Callable[[int, int], float | None]) -> tuple[Row, ...]:
        return tuple(tuple(entry(i, j) for j in range(k)) for i in range(k))

    return Deltas(
        base,
        tuple(models),
        tuple(
            LayerPart(
                stack,
                layer,
                part,
                sums.tensors,
                sums.parameters,
                math.sqrt(sums.base),
                tuple(math.sqrt(square) for square in sums.products.diagonal().tolist()),
            )
            for (stack, layer, part), sums in cells.items()
        ),
        tuple(both[i][i] / total.parameters if total.parameters else 0.0 for i in range(k)),
        matrix(cosine),
        matrix(conflict),
    )
