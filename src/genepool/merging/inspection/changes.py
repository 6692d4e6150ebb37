"""A model's change of one tensor, read in blocks of rows.

Rows are those of the tensor as a matrix (`TensorInfo.matrix`). Adapters and skills give their change themselves,
exactly, without the rounding of a sum; of everything else the base is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from genepool.weights import TensorInfo, Weights

if TYPE_CHECKING:
    import torch

#: Entries of one block: few enough that the blocks of several models stay in the processor's cache.
BLOCK = 1 << 17

#: Rows `start` to `stop` of a change, (stop - start, columns) in float32.
ReadRows = Callable[[int, int], "torch.Tensor"]


def read_change(model: Weights, tensor: str, base: Weights, base_tensor: str) -> ReadRows | None:
    """A reader of rows of `model[tensor] - base[base_tensor]`; None when the model is known not to change it."""
    import torch

    if tensor != base_tensor:
        # A head of its own against the embedding that serves as the base's.
        return lambda start, stop: (
            model.read_rows(tensor, start, stop).to(torch.float32)
            - base.read_rows(base_tensor, start, stop).to(torch.float32)
        )
    if not model.moves(tensor, base):
        return None

    def rows(start: int, stop: int) -> torch.Tensor:
        delta = model.delta_rows(tensor, base, start, stop)
        assert delta is not None
        return delta

    return rows


def row_blocks(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows that cover a tensor, of at most `BLOCK` entries each or a single row."""
    rows, columns = info.matrix
    step = max(1, BLOCK // max(columns, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
