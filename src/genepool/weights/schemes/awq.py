"""AWQ: 4-bit codes with scales and zero points for groups of inputs, in the layouts of its two kernels.

GEMM: packed along the outputs, (in, out), eight to a word in an order of its own. GEMV: packed along the inputs,
(out, in).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import unpack_words
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, expect_dtype, finite, need, place
from genepool.weights.schemes.scheme import Scheme
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

_BITS, _PER_WORD = 4, 8
# Where output j of a word's eight lies (AutoAWQ, `AWQ_REVERSE_ORDER`).
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
_FLOATS = ("F16", "BF16", "F32")


class Awq(Scheme):
    """AWQ of AutoAWQ and GPTQModel, and what AutoRound writes in that form."""

    title = "AWQ"
    methods = frozenset({"awq"})
    reads = "4 bits, any group size, `version: gemm` (`marlin`, `exllama`) and `gemv`"
    library = "gptqmodel"
    oracle = (
        "AutoAWQ's `dequantize_gemm` with scales in float32, for the same layer in both layouts: equal in every bit"
    )

    @classmethod
    def holds(cls, settings: Mapping[str, Any]) -> bool:
        rounded = settings.get("quant_method") == "auto-round"
        return super().holds(settings) or (rounded and "awq" in str(settings.get("packing_format", "")))

    def packed(self) -> Iterator[PackedTensor]:
        self.whole("bits", _BITS, _BITS, _BITS)
        version = str(self.settings.get("version") or self.settings.get("format") or "gemm").lower()
        if version not in ("gemm", "gemv", "exllama", "marlin"):
            raise self.refused(f"got {version!r}, expected gemm or gemv", "version")
        group = self.whole("group_size", 128, -1, 1 << 24)
        if not group:
            raise self.refused("got 0, expected a whole number over 0, or -1", "group_size")
        for stem in self.stems(".qweight"):
            yield (_Gemv if version == "gemv" else _Gemm)(self.stored, stem, group)


class _Gemm(PackedTensor):
    """Entry (out, in) is `scale[group of in, out] * (code[in, out] - zero[group of in, out])`."""

    def __init__(self, stored: Checkpoint, stem: str, group: int) -> None:
        codes, zeros, scales = parts = _parts(stored, stem)
        inputs, words = stored.info(codes).shape
        self._group = inputs if group == -1 else group
        groups, outputs = -(-inputs // self._group), words * _PER_WORD
        expect(stored, zeros, (groups, words), ("I32",))
        expect(stored, scales, (groups, outputs), _FLOATS)
        super().__init__(stored, f"{stem}.weight", parts, (outputs, inputs))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        codes, zeros = (self._outputs(part, start, stop) for part in self.parts[:2])
        scales = finite(self.stored, self.parts[2], self.stored.read(self.parts[2])[:, start:stop].float())
        inputs = self.shape[1]
        points, factors = (one.repeat_interleave(self._group, dim=0)[:inputs] for one in (zeros, scales))
        return ((codes - points) * factors).mT

    def _outputs(self, part: str, start: int, stop: int) -> torch.Tensor:
        """The numbers of some outputs, `(rows of the part, stop - start)` float32."""
        first, last = start // _PER_WORD, -(-stop // _PER_WORD)
        words = self.stored.read(part)[:, first:last]
        eights = unpack_words(words, _BITS, 0, (last - first) * _PER_WORD).reshape(len(words), -1, _PER_WORD)
        ordered = eights[..., list(_PLACES)].flatten(1).float()
        return ordered[:, start - first * _PER_WORD : stop - first * _PER_WORD]


class _Gemv(PackedTensor):
    """The same, with scales and zero points for (out, group of in), and room after the last group."""

    def __init__(self, stored: Checkpoint, stem: str, group: int) -> None:
        codes, zeros, scales = parts = _parts(stored, stem)
        outputs, words = stored.info(codes).shape
        inputs = words * _PER_WORD
        self._group = inputs if group == -1 else group
        groups = -(-inputs // self._group)
        points, factors = stored.info(zeros).shape, stored.info(scales).shape
        for part, shape, per in ((zeros, points, _PER_WORD), (scales, factors, 1)):
            if len(shape) != 2 or shape[0] != outputs or shape[1] * per < groups:
                raise InputError(
                    f"has shape {shape_text(shape)}, expected {outputs} rows of {groups} groups",
                    where=place(stored, part),
                    fix=DAMAGED,
                )
        expect_dtype(stored, zeros, ("I32",))
        expect_dtype(stored, scales, _FLOATS)
        self._groups = groups
        super().__init__(stored, f"{stem}.weight", parts, (outputs, inputs))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        codes = unpack_words(self.stored.read(self.parts[0])[start:stop], _BITS, 0, self.shape[1])
        zeros = unpack_words(self.stored.read(self.parts[1])[start:stop], _BITS, 0, self._groups)
        scales = self.stored.read(self.parts[2])[start:stop, : self._groups].float()
        scales = finite(self.stored, self.parts[2], scales)
        points, factors = (
            one.repeat_interleave(self._group, dim=1)[:, : self.shape[1]] for one in (zeros.float(), scales)
        )
        return (codes.float() - points) * factors


def _parts(stored: Checkpoint, stem: str) -> tuple[str, str, str]:
    """Codes, zero points and scales of a layer.

    Raises:
        InputError: one is missing, or the codes are no matrix of words.
    """
    codes, zeros, scales = (f"{stem}.{end}" for end in ("qweight", "qzeros", "scales"))
    for part in (zeros, scales):
        need(stored, part, codes)
    expect_dtype(stored, codes, ("I32",))
    if len(stored.info(codes).shape) != 2 or not all(stored.info(codes).shape):
        raise InputError("is no matrix", where=place(stored, codes), fix=DAMAGED)
    return codes, zeros, scales
