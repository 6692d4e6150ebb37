"""A grid of scales over a tensor: one for all of it, for a row, for a group of columns, or for a block.

The schemes beside this file use it. Scales are floats, or bytes that are powers of two (E8M0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.packed_tensor import DAMAGED, expect_dtype, finite, place
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

SCALES = frozenset({"F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8"})
# OCP Microscaling Formats 1.0, section 5.4.1: byte s is 2^(s - 127), and 255 is NaN.
_E8M0_BIAS, _E8M0_NAN = 127, 255


class ScaleGrid:
    """The scales of one packed tensor.

    Args:
        stored: the checkpoint.
        name: the scales in it.
        shape: of the floats that they scale, `(..., rows, columns)`.
        block: (rows, columns) that a scale is for, as the config says; None where it does not. Blocks at the far ends
            may then be smaller.
        whole: whether they are no scales but zero points, where a byte is a whole number.

    Attributes:
        columns: scales of one row.

    Raises:
        InputError: the scales cannot lie over this shape.
    """

    def __init__(
        self,
        stored: Checkpoint,
        name: str,
        shape: tuple[int, ...],
        block: Sequence[int] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.stored, self.name, self.shape, self._whole = stored, name, shape, whole
        expect_dtype(stored, name, SCALES | {"I8"} if whole else SCALES)
        *lead, rows, columns = shape if len(shape) > 1 else (1, *shape)
        grid = self._grid(stored.info(name).shape, tuple(lead), rows)
        sides = (*[None] * len(lead), *(block or (None, None)))
        blocks = [
            _block(count, length, side) for count, length, side in zip(grid, (*lead, rows, columns), sides, strict=True)
        ]
        if any(one is None for one in blocks) or any(
            b != 1 and g != 1 for b, g in zip(blocks[:-2], grid, strict=False)
        ):
            raise InputError(
                f"has shape {shape_text(stored.info(name).shape)}, expected scales of {shape_text(shape)}"
                + (f" in blocks of {shape_text(tuple(block))}" if block else ""),
                where=place(stored, name),
                fix=DAMAGED,
            )
        self.columns = grid[-1]
        self._rows, self._grid_rows, self._shared_lead = rows, grid[-2], all(count == 1 for count in grid[:-2])
        self._block_rows, self._block_columns = blocks[-2] or 1, blocks[-1] or 1

    @staticmethod
    def _grid(scales: tuple[int, ...], lead: tuple[int, ...], rows: int) -> tuple[int, ...]:
        """Scales along every axis; zeros for what is no grid."""
        axes = len(lead) + 2
        if all(count == 1 for count in scales):
            return (1,) * axes
        if len(scales) == axes:
            return scales
        if len(scales) == 1:
            # One for each row, or for each expert.
            return (
                (1,) * (axes - 2) + (rows, 1)
                if scales[0] == rows
                else (*scales, 1, 1)
                if lead == scales
                else (0,) * axes
            )
        return (0,) * axes

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """The scales of some rows of the tensor as a matrix, `(stop - start, columns of the grid)` float32.

        Raises:
            InputError: one of them is NaN or infinite.
        """
        import torch

        scales = self.stored.read(self.name).reshape(-1, self.columns)
        row = torch.arange(start, stop)
        lead = torch.zeros_like(row) if self._shared_lead else row // self._rows
        wanted = lead * self._grid_rows + row % self._rows // self._block_rows
        first, last = (int(wanted.min()), int(wanted.max())) if stop > start else (0, -1)
        taken = scales[first : last + 1]
        return finite(self.stored, self.name, taken.float() if self._whole else as_scales(taken))[wanted - first]

    def spread(self, scales: torch.Tensor) -> torch.Tensor:
        """Scales, zero points or other values of the grid's columns, one for each column of the tensor or for all."""
        columns = self.shape[-1]
        if self.columns == 1:
            return scales
        return scales.repeat_interleave(self._block_columns, dim=-1)[:, :columns]


def as_scales(scales: torch.Tensor) -> torch.Tensor:
    """Stored scales as float32; NaN where an E8M0 byte is."""
    import torch

    if scales.dtype == torch.float8_e4m3fn or scales.dtype.itemsize > 1:
        return scales.to(torch.float32)
    powers = scales.view(torch.uint8).to(torch.int32)
    found = torch.ldexp(torch.ones_like(powers, dtype=torch.float32), powers - _E8M0_BIAS)
    return torch.where(powers == _E8M0_NAN, float("nan"), found)


def _block(count: int, length: int, side: int | None) -> int | None:
    """Entries along one axis that share a scale; None where `count` scales cannot lie over `length` entries."""
    if side is not None and count == -(-length // side):
        return side
    # Beside blocks of one size, a layer may have a scale for each row, or one for all.
    if side is not None and count not in (1, length):
        return None
    return length // count if count > 0 and length % count == 0 and length else None
