"""bitsandbytes in 4 bits: NF4 and FP4, with scales that may be quantised themselves.

Codes of all entries lie in one row, two a byte, and so many entries in a row share a scale (`absmax`). What is no
tensor, such as the shape, is JSON in the bytes of a tensor of its own (`QuantState.as_dict` of bitsandbytes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.checked import is_number, is_whole, parsed_json
from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import unpack_nibbles
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, finite, need, place
from genepool.weights.schemes.scheme import Scheme
from genepool.weights.schemes.transposing import is_transposed

if TYPE_CHECKING:
    import torch

_STATES = {".quant_state.bitsandbytes__nf4": "NF4", ".quant_state.bitsandbytes__fp4": "FP4"}
_MOST_STATE_BYTES = 1 << 16
_MOST_BLOCK = 1 << 16


class BitsAndBytes4Bit(Scheme):
    """NF4 and FP4."""

    title = "bitsandbytes, 4 bits"
    methods = frozenset({"bitsandbytes"})
    reads = "NF4 and FP4, any block size, scales quantised or not, any type of storage"
    library = "bitsandbytes"
    oracle = "`bitsandbytes.functional.dequantize_4bit` 0.50.2, rows of whole blocks: equal in every bit"

    @classmethod
    def holds(cls, settings: Mapping[str, Any]) -> bool:
        return super().holds(settings) and settings.get("load_in_8bit") is not True

    def form(self) -> str:
        codes = [code for end, code in _STATES.items() if any(self.stems(end))]
        return f"{self.title}: {' and '.join(codes)}" if codes else self.title

    def misread(self) -> str:
        # Seen with bitsandbytes 0.50.2: the kernel for processors begins a new scale with each row, the one for GPUs
        # and `_dequantize_4bit_compute` do not.
        uneven = next((one.name for one in self.packed() if isinstance(one, _Blocks) and one.uneven), "")
        return f"the rows of {uneven} are no whole number of blocks, which bitsandbytes misreads" if uneven else ""

    def packed(self) -> Iterator[PackedTensor]:
        for end in _STATES:
            for name in self.stems(end):
                yield _Blocks(self.stored, name, end)


@dataclass(frozen=True)
class _State:
    """What the JSON of one tensor says.

    Attributes:
        shape: of the floats, as they were packed.
        block: entries that share a scale.
        nested_block: scales that share a scale; 1 where scales are not quantised.
        offset: what is added to every scale; 0 where scales are not quantised.
    """

    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: float

    @classmethod
    def read(cls, stored: Checkpoint, name: str, nested: bool) -> _State:
        where, info = place(stored, name), stored.info(name)
        if info.dtype != "U8" or info.numel > _MOST_STATE_BYTES:
            raise InputError("is no JSON in bytes", where=where, fix=DAMAGED)
        try:
            said = parsed_json(bytes(stored.file_of(name).view_bytes(name)).decode())
        except ValueError as error:
            raise InputError(f"is no JSON in bytes ({error})", where=where, fix=DAMAGED) from None
        if not isinstance(said, dict):
            raise InputError("is no JSON object", where=where, fix=DAMAGED)
        shape, block = said.get("shape"), said.get("blocksize")
        if not isinstance(shape, list) or not 1 <= len(shape) <= 4 or not all(is_whole(n, 1) for n in shape):
            raise InputError(f"got shape {shape!r}, expected a list of whole numbers", where=where, fix=DAMAGED)
        nested_block, offset = (said.get("nested_blocksize"), said.get("nested_offset")) if nested else (1, 0.0)
        if not is_whole(block, 1, _MOST_BLOCK) or not is_whole(nested_block, 1, _MOST_BLOCK):
            raise InputError(
                f"got blocksize {block!r} and nested_blocksize {nested_block!r}, expected 1 to {_MOST_BLOCK:,}",
                where=where,
                fix=DAMAGED,
            )
        if not is_number(offset):
            raise InputError(f"got nested_offset {offset!r}, expected a number", where=where, fix=DAMAGED)
        return cls(tuple(shape), block, nested_block, float(offset))


class _Blocks(PackedTensor):
    """Entry i is `quant_map[code i] * absmax[i // block]`."""

    def __init__(self, stored: Checkpoint, name: str, end: str) -> None:
        state, scales, table = f"{name}{end}", f"{name}.absmax", f"{name}.quant_map"
        if name not in stored:
            raise InputError("has no packed weights beside it", where=place(stored, state), fix=DAMAGED)
        nested = (f"{name}.nested_absmax", f"{name}.nested_quant_map")
        self._nested = any(part in stored for part in nested)
        parts = (name, state, scales, table, *(nested if self._nested else ()))
        for part in parts:
            need(stored, part, name)
        self._state = _State.read(stored, state, self._nested)
        entries = math.prod(self._state.shape)
        blocks = -(-entries // self._state.block)
        if stored.info(name).nbytes != -(-entries // 2):
            raise InputError(
                f"takes {stored.info(name).nbytes:,} bytes, and {entries:,} entries take {-(-entries // 2):,}",
                where=place(stored, name),
                fix=DAMAGED,
            )
        expect(stored, table, (16,), ("F32",))
        expect(stored, scales, (blocks,), ("U8",) if self._nested else ("F32", "BF16", "F16"))
        if self._nested:
            expect(stored, nested[0], (-(-blocks // self._state.nested_block),), ("F32",))
            expect(stored, nested[1], (256,), ("F32",))
        self.uneven = self._state.shape[-1] % self._state.block != 0
        # GPT-2's layers store (in, out), and are packed as (out, in).
        self._transposed = is_transposed(stored, name) and len(self._state.shape) == 2
        super().__init__(stored, name, parts, self._state.shape[:: -1 if self._transposed else 1])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        import torch

        rows, columns = self.matrix
        table = finite(self.stored, self.parts[3], self.stored.read(self.parts[3]))
        codes = self.stored.read(self.name).reshape(-1).view(torch.uint8)
        if self._transposed:
            entry = torch.arange(columns) * rows + torch.arange(start, stop).unsqueeze(1)
            nibbles = (codes[entry // 2] >> (4 * (1 - entry % 2)).to(torch.uint8)) & 15
            first, last = start // self._state.block, -(-((columns - 1) * rows + stop) // self._state.block)
            return table[nibbles.to(torch.int32)] * self._scales(first, last)[entry // self._state.block - first]
        begin, end = start * columns, stop * columns
        values = unpack_nibbles(codes[begin // 2 : -(-end // 2)], table, low_first=False)
        values = values[begin % 2 : begin % 2 + end - begin]
        first = begin // self._state.block
        scales = self._scales(first, -(-end // self._state.block)).repeat_interleave(self._state.block)
        skipped = begin - first * self._state.block
        return values.mul_(scales[skipped : skipped + end - begin]).reshape(stop - start, columns)

    def _scales(self, first: int, last: int) -> torch.Tensor:
        """The scales of some blocks, float32."""
        scales = self.stored.read(self.parts[2])[first:last]
        if not self._nested:
            return finite(self.stored, self.parts[2], scales.float())
        import torch

        per = self._state.nested_block
        table = finite(self.stored, self.parts[5], self.stored.read(self.parts[5]))
        begin = first // per
        factors = self.stored.read(self.parts[4])[begin : -(-last // per)].repeat_interleave(per)
        skipped = first - begin * per
        nested = table[scales.to(torch.int32)] * factors[skipped : skipped + last - first]
        return finite(self.stored, self.parts[4], nested + self._state.offset)
