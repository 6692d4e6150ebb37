"""bitsandbytes in 8 bits (LLM.int8()): one scale for each row, its largest magnitude."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, expect_dtype, finite, place
from genepool.weights.schemes.scheme import Scheme
from genepool.weights.schemes.transposing import is_transposed
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

_CODES, _SCALES, _ORDER = "weight", "SCB", "weight_format"
# bitsandbytes multiplies by this float32 instead of dividing by 127 (`int8_vectorwise_dequant`).
_STEP = 7.874015718698502e-3


class BitsAndBytes8Bit(Scheme):
    """LLM.int8()."""

    title = "bitsandbytes, 8 bits"
    methods = frozenset({"bitsandbytes"})
    reads = "rows in their own order; the orders of old CUDA kernels (`weight_format` over 0) are refused"
    library = "bitsandbytes"
    oracle = "`bitsandbytes.functional.int8_vectorwise_dequant` 0.50.2: equal in every bit"

    @classmethod
    def holds(cls, settings: Mapping[str, Any]) -> bool:
        return super().holds(settings) and settings.get("load_in_8bit") is True

    def packed(self) -> Iterator[PackedTensor]:
        for stem in self.stems(f".{_SCALES}"):
            yield _ScaledRows(self.stored, stem)


class _ScaledRows(PackedTensor):
    """Entry (i, j) is `code[i, j] * SCB[i] / 127`."""

    def __init__(self, stored: Checkpoint, stem: str) -> None:
        codes, scales, order = f"{stem}.{_CODES}", f"{stem}.{_SCALES}", f"{stem}.{_ORDER}"
        if codes not in stored:
            raise InputError(
                f"has no {codes} beside it", where=place(stored, scales), fix="Fetch or save the model again"
            )
        expect_dtype(stored, codes, ("I8",))
        shape = stored.info(codes).shape
        if len(shape) != 2:
            raise InputError(
                f"has shape {shape_text(shape)}, expected a matrix", where=place(stored, codes), fix=DAMAGED
            )
        expect(stored, scales, shape[:1], ("F32",))
        parts = [codes, scales]
        if order in stored:
            parts.append(order)
            if stored.info(order).numel != 1 or int(stored.read(order).reshape(())) != 0:
                raise InputError(
                    "its entries lie in the order of an old CUDA kernel",
                    where=place(stored, order),
                    fix="Load it with transformers and bitsandbytes and save it again",
                )
        # GPT-2's layers store (in, out), and are packed as (out, in).
        self._transposed = is_transposed(stored, codes)
        super().__init__(stored, codes, parts, shape[:: -1 if self._transposed else 1])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        codes, scales = self.stored.read(self.parts[0]), self.stored.read(self.parts[1])
        if self._transposed:
            return (codes[:, start:stop] * finite(self.stored, self.parts[1], scales).unsqueeze(1) * _STEP).mT
        return codes[start:stop] * finite(self.stored, self.parts[1], scales[start:stop]).unsqueeze(1) * _STEP
