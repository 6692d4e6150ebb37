"""MXFP4 as gpt-oss stores its experts: four-bit floats in groups of 32 inputs, with powers of two as scales.

The groups lie as (experts, out, groups, 16 bytes); an unquantised checkpoint has the experts as (experts, in, out).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import unpack_e2m1
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, expect_dtype, finite, need, place
from genepool.weights.schemes.scale_grid import as_scales
from genepool.weights.schemes.scheme import Scheme
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

_CODES, _SCALES = "_blocks", "_scales"
_GROUP = 32


class Mxfp4(Scheme):
    """The experts of gpt-oss."""

    title = "MXFP4"
    methods = frozenset({"mxfp4"})
    reads = "`_blocks` with `_scales`, the experts of gpt-oss"
    oracle = "transformers' `convert_moe_packed_tensors` 5.23.0: equal in every bit"

    def packed(self) -> Iterator[PackedTensor]:
        for stem in self.stems(_CODES):
            yield _Experts(self.stored, stem)


class _Experts(PackedTensor):
    """Entry (expert, in, out) is `E2M1[code] * 2^(scale - 127)`."""

    def __init__(self, stored: Checkpoint, stem: str) -> None:
        codes, scales = f"{stem}{_CODES}", f"{stem}{_SCALES}"
        need(stored, scales, codes)
        expect_dtype(stored, codes, ("U8",))
        shape = stored.info(codes).shape
        if len(shape) != 4 or shape[-1] != _GROUP // 2:
            raise InputError(
                f"has shape {shape_text(shape)}, expected (experts, out, groups, {_GROUP // 2})",
                where=place(stored, codes),
                fix=DAMAGED,
            )
        expect(stored, scales, shape[:-1], ("U8",))
        experts, out, groups, _ = shape
        super().__init__(stored, stem, (codes, scales), (experts, groups * _GROUP, out))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        import torch

        codes, scales = self.stored.read(self.parts[0]), self.stored.read(self.parts[1])
        inputs = self.shape[1]
        found = []
        for expert in range(start // inputs, -(-stop // inputs)):
            first, last = max(start - expert * inputs, 0), min(stop - expert * inputs, inputs)
            groups = slice(first // _GROUP, -(-last // _GROUP))
            values = unpack_e2m1(codes[expert, :, groups])
            values *= finite(self.stored, self.parts[1], as_scales(scales[expert, :, groups])).unsqueeze(-1)
            skipped = first - groups.start * _GROUP
            found.append(values.flatten(1).mT[skipped : skipped + last - first])
        return torch.cat(found) if found else torch.empty(0, self.shape[2])
