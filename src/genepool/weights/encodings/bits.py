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


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """`(rows, columns)` uint8 of numbers below `2^bits` -> `(rows, packed_width)` uint8; bits is 2, 4 or 8."""
    import torch

    if bits == 8:
        return codes
    each = 8 // bits
    rows, columns = codes.shape
    full = torch.nn.functional.pad(codes, (0, -columns % each)).reshape(rows, -1, each)
    packed = full[:, :, 0]
    for place in range(1, each):
        packed = (packed << bits) | full[:, :, place]
    return packed.contiguous()


def unpack(packed: torch.Tensor, columns: int, bits: int) -> torch.Tensor:
    """The numbers again, `(rows, columns)` uint8."""
    import torch

    if bits == 8:
        return packed[:, :columns]
    shifts = torch.arange(8 - bits, -1, -bits, dtype=torch.uint8)
    codes = (packed.unsqueeze(2) >> shifts) & ((1 << bits) - 1)
    return codes.flatten(1)[:, :columns]
