"""Small whole numbers, several to a byte, row by row: the first in the byte's highest bits, rows filled up to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WIDTHS = (2, 4, 8)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """`(rows, columns)` of truth values -> `(rows, ceil(columns / 8))` uint8."""
    import numpy as np
    import torch

    return torch.from_numpy(np.packbits(mask.numpy(), axis=1))


def unpack_bits(packed: torch.Tensor, columns: int) -> torch.Tensor:
    """The truth values again, `(rows, columns)`."""
    import numpy as np
    import torch

    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=columns)).view(torch.bool)


def packed_width(columns: int, bits: int) -> int:
    """Bytes of a row of `columns` numbers of `bits` bits."""
    return -(-columns * bits // 8)
