"""Whole numbers of 2, 4 or 8 bits, with a scale for every few entries of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.bits import WIDTHS, packed_width
from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch

# Entries that share a scale, as most int4 formats have it.
GROUP = 64
# By bits: what stands for zero, and the largest code. Two bits have no zero: four levels lose less than three.
_LEVELS = {8: (127.0, 254), 4: (7.0, 14), 2: (1.5, 3)}
# Shares of the range that covers the largest entry, of which each group takes the one of least squared error: few
# levels do better when they leave the largest entries to be clipped.
_SHARES = {8: (1.0,), 4: (1.0, 0.9, 0.8, 0.7), 2: (1.0, 0.85, 0.7, 0.6, 0.5)}


class Groups(Encoding):
    """`codes` packed into bytes, `scales` in bfloat16, whose range is that of float32."""

    kind = "groups"
    form = "packed"

    def encode(self, change: torch.Tensor, *, bits: int = 4, group: int = GROUP, **_: Any) -> EncodedChange:
        codes, scales = quantise(change, bits, group)
        return EncodedChange({"codes": codes, "scales": scales}, {"bits": bits, "group": group})

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        codes, scales = entry.parts["codes"].rows(start, stop), entry.parts["scales"].rows(start, stop)
        return dequantise(codes, scales, entry.matrix[1], entry.settings["bits"], entry.settings["group"])

    def check_parts(self, entry: Entry) -> None:
        rows, columns = entry.matrix
        bits, group = entry.whole_number("bits", 2, 8), entry.whole_number("group", 1, 1 << 30)
        if bits not in WIDTHS:
            raise entry.broken(f"its numbers have {bits} bits")
        entry.expect("codes", (rows, packed_width(columns, bits)), "U8")
        entry.expect("scales", (rows, -(-columns // group)), "BF16")

    def layout(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, TensorInfo]:
        rows, columns = TensorInfo(shape, "F32").matrix
        bits, group = settings.get("bits", 4), settings.get("group", GROUP)
        return {
            "codes": TensorInfo((rows, packed_width(columns, bits)), "U8"),
            "scales": TensorInfo((rows, -(-columns // group)), "BF16"),
        }


def quantise(values: torch.Tensor, bits: int, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed codes `(rows, packed_width)` uint8 and scales `(rows, groups)` bfloat16 of `(rows, columns)` float32."""
    import numpy as np
    import torch

    from genepool.kernels import compiled_encodings

    zero, largest = _LEVELS[bits]
    rows, columns = values.shape
    codes = np.zeros((rows, packed_width(columns, bits)), np.uint8)
    scales = np.empty((rows, -(-columns // group)), np.uint16)
    shares = np.array(_SHARES[bits], np.float32)
    compiled_encodings.quantise(values.contiguous().numpy(), bits, group, zero, largest, shares, codes, scales)
    return torch.from_numpy(codes), torch.from_numpy(scales.view(np.int16)).view(torch.bfloat16)


def dequantise(codes: torch.Tensor, scales: torch.Tensor, columns: int, bits: int, group: int) -> torch.Tensor:
    """The values again, `(rows, columns)` float32."""
    import numpy as np
    import torch

    from genepool.kernels import compiled_encodings

    out = np.empty((codes.shape[0], columns), np.float32)
    bits_of_scales = scales.contiguous().view(torch.int16).numpy().view(np.uint16)
    compiled_encodings.dequantise(codes.contiguous().numpy(), bits_of_scales, bits, group, _LEVELS[bits][0], out)
    return torch.from_numpy(out)
