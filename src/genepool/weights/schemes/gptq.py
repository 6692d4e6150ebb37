"""GPTQ: codes packed along the inputs, scales and zero points for groups of inputs, in any order of the inputs.

A layer lies as (in, out), transposed to its weight. The bits of a layer are told from the shapes of its tensors, since
a config may name other bits for some layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import WORD, unpack_words
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, expect_dtype, finite, need, place
from genepool.weights.schemes.scheme import Scheme

if TYPE_CHECKING:
    import torch

_BITS = (2, 3, 4, 8)
# AutoGPTQ's files hold each zero point less 1. GPTQModel's second form holds it as it is.
_OFFSETS = {"gptq": 1, "gptq_v2": 0}


class Gptq(Scheme):
    """GPTQ of AutoGPTQ and GPTQModel, and what AutoRound writes in that form."""

    title = "GPTQ"
    methods = frozenset({"gptq"})
    reads = "2, 3, 4 and 8 bits, both forms of zero points (`gptq`, `gptq_v2`), any group size, `desc_act`"
    library = "gptqmodel"
    oracle = (
        "the layers of AutoGPTQ 0.7.1, and GPTQModel's `dequantize_weight` for `gptq_v2` and `desc_act`, with scales in"
        " float32: equal in every bit"
    )

    @classmethod
    def holds(cls, settings: Mapping[str, Any]) -> bool:
        rounded = settings.get("quant_method") == "auto-round"
        return super().holds(settings) or (rounded and "gptq" in str(settings.get("packing_format", "")))

    def packed(self) -> Iterator[PackedTensor]:
        form = self.settings.get("checkpoint_format", "gptq")
        if str(form) not in _OFFSETS:
            raise self.refused(f"got {form!r}, expected {' or '.join(_OFFSETS)}", "checkpoint_format")
        group = self.whole("group_size", -1, -1, 1 << 24)
        if not group:
            raise self.refused("got 0, expected a whole number over 0, or -1", "group_size")
        for stem in self.stems(".qweight"):
            yield _Grouped(self.stored, stem, group, _OFFSETS[form])


class _Grouped(PackedTensor):
    """Entry (out, in) is `scale[group of in, out] * (code[in, out] - zero[group of in, out])`."""

    def __init__(self, stored: Checkpoint, stem: str, group: int, offset: int) -> None:
        codes, zeros, scales, order = (f"{stem}.{end}" for end in ("qweight", "qzeros", "scales", "g_idx"))
        for part in (zeros, scales):
            need(stored, part, codes)
        for part in (codes, zeros):
            expect_dtype(stored, part, ("I32",))
        packed, points = stored.info(codes).shape, stored.info(zeros).shape
        if len(packed) != 2 or len(points) != 2 or not packed[1]:
            raise InputError("is no matrix", where=place(stored, codes), fix=DAMAGED)
        self._bits, rest = divmod(points[1] * WORD, packed[1])
        if rest or self._bits not in _BITS:
            raise InputError(
                f"holds {points[1]} words for {packed[1]} outputs, expected 2, 3, 4 or 8 bits for each",
                where=place(stored, zeros),
                fix=DAMAGED,
            )
        inputs, rest = divmod(packed[0] * WORD, self._bits)
        if rest or not inputs or not points[0]:
            raise InputError(
                f"holds no whole number of {self._bits}-bit inputs", where=place(stored, codes), fix=DAMAGED
            )
        expect(stored, scales, (points[0], packed[1]), ("F16", "BF16", "F32"))
        self._offset = offset
        self._group = inputs if group == -1 else group
        self._order = order if order in stored else None
        if self._order is not None:
            expect(stored, order, (inputs,), ("I32", "I64"))
        elif points[0] != -(-inputs // self._group):
            raise InputError(
                f"holds {points[0]} groups, expected {-(-inputs // self._group)} of {self._group} inputs",
                where=place(stored, scales),
                fix=DAMAGED,
            )
        parts = (codes, zeros, scales, *(() if self._order is None else (order,)))
        super().__init__(stored, f"{stem}.weight", parts, (packed[1], inputs))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        codes = unpack_words(self.stored.read(self.parts[0])[:, start:stop].mT, self._bits, 0, self.shape[1])
        zeros = unpack_words(self.stored.read(self.parts[1]), self._bits, start, stop).mT
        # A sum past the largest code is the smallest, as in AutoGPTQ.
        zeros = (zeros + self._offset) & (2**self._bits - 1)
        scales = finite(self.stored, self.parts[2], self.stored.read(self.parts[2])[:, start:stop].mT.float())
        group = self._groups()
        found: torch.Tensor = (codes.float() - zeros.float()[:, group]) * scales[:, group]
        return found

    def _groups(self) -> torch.Tensor:
        """The group of every input."""
        import torch

        if self._order is None:
            return torch.arange(self.shape[1]) // self._group
        order = self.stored.read(self._order).to(torch.int64)
        most = self.stored.info(self.parts[2]).shape[0]
        if int(order.min()) < 0 or int(order.max()) >= most:
            raise InputError(
                f"names group {int(order.min() if order.min() < 0 else order.max())}, and there are {most}",
                where=place(self.stored, self._order),
                fix=DAMAGED,
            )
        return order
