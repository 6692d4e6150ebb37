"""Eight-bit floats with scales: for the whole tensor, for each row, or for blocks of rows and columns.

DeepSeek's blocks, FBGEMM's rows, MXFP8's groups, and the experts of DeepSeek-V4, which are four-bit floats in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import unpack_e2m1
from genepool.weights.schemes.packed_tensor import PackedTensor, place
from genepool.weights.schemes.scale_grid import ScaleGrid
from genepool.weights.schemes.scheme import Scheme

if TYPE_CHECKING:
    import torch

_FLOATS = ("F8_E4M3", "F8_E5M2")
_MOST_SIDE = 1 << 24


class Fp8(Scheme):
    """E4M3 and E5M2 with scales beside them."""

    title = "FP8"
    methods = frozenset({"fp8", "fbgemm_fp8", "mxfp8"})
    reads = (
        "E4M3 and E5M2; `weight_scale_inv`, `weight_scale`, `scale` or `qscale_weight` for a tensor, its rows or blocks"
        " of it, as floats or powers of two (E8M0); experts as one tensor or many; E2M1 experts in bytes"
    )
    oracle = "transformers' `Fp8Dequantize` 5.23.0: equal in every bit"
    unused = (
        ".activation_scale", ".activation_scale_inv", ".input_scale", ".input_scale_ub", ".k_scale", ".v_scale",
        "_activation_scale", "_input_scale",
    )  # fmt: skip

    def packed(self) -> Iterator[PackedTensor]:
        block = self._block()
        for name in self.names():
            dtype = self.stored.info(name).dtype
            scales = [one for one in _scales_of(name) if one in self.stored]
            # A scale may be an eight-bit float itself.
            if dtype in (*_FLOATS, "I8") and scales:
                yield _ScaledFloats(self.stored, name, scales[0], block)

    def _block(self) -> Sequence[int] | None:
        block = self.settings.get("weight_block_size")
        if block is None:
            return None
        if not isinstance(block, list) or len(block) != 2 or not all(is_whole(one, 1, _MOST_SIDE) for one in block):
            raise self.refused(f"got {block!r}, expected two whole numbers over 0", "weight_block_size")
        return block


def _scales_of(name: str) -> Iterator[str]:
    """What the scales of a tensor may be called."""
    yield from (f"{name}_scale_inv", f"{name}_scale")
    if name.endswith(".weight"):
        stem = name.removesuffix("weight")
        yield from (f"{stem}scale", f"{stem}qscale_weight")


class _ScaledFloats(PackedTensor):
    """Every entry times the scale of its block."""

    def __init__(self, stored: Checkpoint, name: str, scales: str, block: Sequence[int] | None) -> None:
        info = stored.info(name)
        if len(info.shape) < 2:
            raise InputError("is a vector, expected a matrix", where=place(stored, name))
        # transformers' `Fp8Dequantize` takes signed bytes for pairs of E2M1.
        self._pairs = info.dtype == "I8"
        shape = (*info.shape[:-1], info.shape[-1] * (2 if self._pairs else 1))
        self._grid = ScaleGrid(stored, scales, shape, None if self._pairs else block)
        super().__init__(stored, name, (name, scales), shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        import torch

        codes = self.stored.read_rows(self.name, start, stop)
        values = unpack_e2m1(codes.view(torch.uint8)) if self._pairs else codes.to(torch.float32)
        return values.mul_(self._grid.spread(self._grid.rows(start, stop)))
