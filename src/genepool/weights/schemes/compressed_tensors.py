"""compressed-tensors, the form of vLLM's LLM Compressor: whole numbers, packed or not, and floats of 4, 6 and 8 bits.

What a tensor is told from its own name, type and shape; of the config only the sizes that these leave open, since its
groups name layers by patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.bit_packing import WORD, unpack_e2m1, unpack_e2m3, unpack_spaced, unpack_words, words_of
from genepool.weights.schemes.packed_tensor import DAMAGED, PackedTensor, expect, expect_dtype, finite, need, place
from genepool.weights.schemes.scale_grid import ScaleGrid
from genepool.weights.schemes.scheme import Scheme
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

_BITS = range(1, 9)
_MOST_SIDE = 1 << 24
# Floats of a group that share a power of two, OCP Microscaling Formats 1.0, section 5.2.
_MX_GROUP = 32


class CompressedTensors(Scheme):
    """What `compressed-tensors` writes."""

    title = "compressed-tensors"
    methods = frozenset({"compressed-tensors"})
    reads = (
        "`int-quantized`, `float-quantized`, `naive-quantized`, `pack-quantized` (1 to 8 bits, zero points, "
        "`actorder`), `nvfp4-pack-quantized`, `mxfp4-pack-quantized`, `mxfp6-pack-quantized`, `mxfp8-quantized`; "
        "refused: sparse formats, `marlin-24` and rotated weights (`transform_config`)"
    )
    library = "compressed_tensors"
    oracle = (
        "the `decompress` of its compressors, 0.20.1: equal in every bit, `pack-quantized` in 3, 4 and 8 bits; no "
        "example covers its other numbers of bits, `actorder` (`weight_g_idx`) and the older files whose words hold "
        "whole codes of 3, 5, 6 or 7 bits only"
    )
    unused = (
        ".input_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".output_zero_point", ".k_scale",
        ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point",
    )  # fmt: skip

    def packed(self) -> Iterator[PackedTensor]:
        self._check_format()
        block = self._block()
        for stem in self.stems(".weight_packed"):
            words = self.stored.info(f"{stem}.weight_packed").dtype == "I32"
            yield _PackedIntegers(self.stored, stem, self._bits()) if words else _PackedFloats(self.stored, stem)
        for stem in self.stems(".weight_scale"):
            if f"{stem}.weight_packed" not in self.stored:
                yield _Scaled(self.stored, stem, block)

    def form(self) -> str:
        named = self.settings.get("format")
        return f"{self.title}: {named}" if isinstance(named, str) and named else self.title

    def _check_format(self) -> None:
        form = str(self.settings.get("format", ""))
        sparse = self.settings.get("sparsity_config")
        if isinstance(sparse, Mapping) and sparse.get("format", "dense") != "dense":
            raise self.refused(f"got format {sparse['format']!r}, and sparse weights are not read", "sparsity_config")
        if form.startswith("sparse") or form.startswith("marlin"):
            raise self.refused(f"got {form!r}, which is not read", "format")
        if self.settings.get("transform_config"):
            raise self.refused("its weights are rotated, and its layers rotate what goes into them", "transform_config")

    def _weights(self) -> Iterator[Mapping[str, Any]]:
        """What the groups of the config say of weights."""
        groups = self.settings.get("config_groups")
        for group in groups.values() if isinstance(groups, Mapping) else ():
            said = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(said, Mapping):
                yield said

    def _block(self) -> Sequence[int] | None:
        """The size of blocks, of which a tensor's shape leaves open where the last one ends.

        Raises:
            InputError: groups of the config have blocks of different sizes, and which group a layer is of is not read.
        """
        found: list[list[int]] = []
        for said in self._weights():
            block = said.get("block_structure")
            if isinstance(block, list) and len(block) == 2 and all(is_whole(one, 1, _MOST_SIDE) for one in block):
                found += [block] if block not in found else []
        if len(found) > 1:
            raise self.refused(f"its groups have blocks of {found[0]} and of {found[1]}", "config_groups")
        return found[0] if found else None

    def _bits(self) -> Sequence[int]:
        """The bits that some group of the config has; all that there are where none says."""
        return [said["num_bits"] for said in self._weights() if said.get("num_bits") in _BITS] or list(_BITS)


class _Scaled(PackedTensor):
    """Entry (i, j) is `scale of its block * (code[i, j] - zero point of its block)`."""

    def __init__(self, stored: Checkpoint, stem: str, block: Sequence[int] | None) -> None:
        codes, scales, zeros = f"{stem}.weight", f"{stem}.weight_scale", f"{stem}.weight_zero_point"
        if codes not in stored:
            raise InputError(f"has no {codes} beside it", where=place(stored, scales), fix=DAMAGED)
        info = stored.info(codes)
        if info.is_float:
            raise InputError(
                "is stored as floats beside the scale that they would be rounded with",
                where=place(stored, codes),
                fix="Save it with compressed-tensors as `quantization_status: compressed`",
            )
        expect_dtype(stored, codes, ("I8", "F8_E4M3"))
        self._grid = ScaleGrid(stored, scales, info.shape, block)
        self._zeros = zeros if zeros in stored else None
        if self._zeros is not None:
            expect(stored, zeros, stored.info(scales).shape, ("I8", "F8_E4M3"))
            self._zero_grid = ScaleGrid(stored, zeros, info.shape, block, whole=True)
        super().__init__(stored, codes, (codes, scales, *(() if self._zeros is None else (zeros,))), info.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        import torch

        codes = self.stored.read_rows(self.name, start, stop).to(torch.float32)
        if self._zeros is not None:
            codes -= self._zero_grid.spread(self._zero_grid.rows(start, stop))
        return codes.mul_(self._grid.spread(self._grid.rows(start, stop)))


class _PackedIntegers(PackedTensor):
    """Entry (i, j) is `scale[i, group of j] * (code[i, j] - zero[i, group of j])`."""

    def __init__(self, stored: Checkpoint, stem: str, known: Sequence[int]) -> None:
        codes, scales, order = (f"{stem}.{end}" for end in ("weight_packed", "weight_scale", "weight_g_idx"))
        for part in (scales, f"{stem}.weight_shape"):
            need(stored, part, codes)
        rows, columns = shape = _said_shape(stored, f"{stem}.weight_shape")
        packed = stored.info(codes).shape
        if len(packed) != 2 or packed[0] != rows:
            raise InputError(
                f"has shape {shape_text(packed)}, expected {rows} rows", where=place(stored, codes), fix=DAMAGED
            )
        self._bits, self._spaced = _bits_of(stored, codes, columns, known)
        self._grid = ScaleGrid(stored, scales, shape)
        self._order = order if order in stored else None
        if self._order is not None:
            expect(stored, order, (columns,), ("I32", "I64"))
        self._zeros = f"{stem}.weight_zero_point" if f"{stem}.weight_zero_point" in stored else None
        self._zeros_packed = self._zeros is not None and stored.info(self._zeros).dtype == "I32"
        if self._zeros is not None:
            # Zero points are packed along the rows.
            height = self._words(rows) if self._zeros_packed else rows
            expect(stored, self._zeros, (height, self._grid.columns), ("I32", "I8"))
        more = [part for part in (self._order, self._zeros) if part is not None]
        super().__init__(stored, f"{stem}.weight", (codes, scales, f"{stem}.weight_shape", *more), shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        offset = 2 ** (self._bits - 1)
        values: torch.Tensor = (
            self._unpacked(self.stored.read(self.parts[0])[start:stop], 0, self.shape[1]).float() - offset
        )
        groups = self._groups()
        if self._zeros is not None:
            points = self.stored.read(self._zeros)
            if self._zeros_packed:
                zeros = self._unpacked(points.mT, start, stop).mT.float() - offset
            else:
                zeros = points[start:stop].float()
            values -= self._grid.spread(zeros) if groups is None else zeros[:, groups]
        scales = self._grid.rows(start, stop)
        return values.mul_(self._grid.spread(scales) if groups is None else scales[:, groups])

    def _words(self, count: int) -> int:
        return -(-count // (WORD // self._bits)) if self._spaced else words_of(count, self._bits)

    def _unpacked(self, words: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return (unpack_spaced if self._spaced else unpack_words)(words, self._bits, start, stop)

    def _groups(self) -> torch.Tensor | None:
        """The group of every column; None where they lie in order."""
        import torch

        if self._order is None:
            return None
        order = self.stored.read(self._order).to(torch.int64)
        if bool((order == -1).all()):
            return None
        if int(order.min()) < 0 or int(order.max()) >= self._grid.columns:
            raise InputError(
                f"names group {int(order.min() if order.min() < 0 else order.max())}, and there are"
                f" {self._grid.columns}",
                where=place(self.stored, self._order),
                fix=DAMAGED,
            )
        return order


class _PackedFloats(PackedTensor):
    """Entry (i, j) is `float[i, j] * scale[i, group of j] / global scale`."""

    def __init__(self, stored: Checkpoint, stem: str) -> None:
        codes, scales, whole = (f"{stem}.{end}" for end in ("weight_packed", "weight_scale", "weight_global_scale"))
        need(stored, scales, codes)
        expect_dtype(stored, codes, ("U8",))
        packed, grid = stored.info(codes).shape, stored.info(scales).shape
        if len(packed) != 2 or len(grid) != 2 or not grid[1]:
            raise InputError(
                f"has shape {shape_text(packed)}, expected a matrix", where=place(stored, codes), fix=DAMAGED
            )
        # Groups of 16 are NVFP4's, with a scale for all of them; groups of 32 are MXFP4's, or MXFP6's in more bytes.
        self._six = whole not in stored and packed[1] == grid[1] * _MX_GROUP * 6 // 8
        shape = (packed[0], packed[1] * 4 // 3 if self._six else packed[1] * 2)
        self._grid = ScaleGrid(stored, scales, shape)
        self._whole = whole if whole in stored else None
        if self._whole is None and stored.info(scales).dtype not in ("U8", "F8_E8M0"):
            need(stored, whole, codes)
        if self._whole is not None:
            expect_dtype(stored, whole, ("F32", "F16", "BF16"))
            if stored.info(whole).numel != 1:
                raise InputError("expected one number", where=place(stored, whole), fix=DAMAGED)
        more = () if self._whole is None else (whole,)
        super().__init__(stored, f"{stem}.weight", (codes, scales, *more), shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        scales = self._grid.rows(start, stop)
        if self._whole is not None:
            factor = finite(self.stored, self._whole, self.stored.read(self._whole).reshape(()).float())
            if not bool(factor):
                raise InputError("is 0", where=place(self.stored, self._whole), fix=DAMAGED)
            scales = scales / factor
        octets = self.stored.read(self.parts[0])[start:stop]
        return (unpack_e2m3 if self._six else unpack_e2m1)(octets).mul_(self._grid.spread(scales))


def _said_shape(stored: Checkpoint, name: str) -> tuple[int, int]:
    """The shape of the floats, which the file says in a tensor of two numbers.

    Raises:
        InputError: it is none.
    """
    expect(stored, name, (2,), ("I64", "I32"))
    rows, columns = (int(one) for one in stored.read(name))
    if rows < 1 or columns < 1:
        raise InputError(f"says {rows} by {columns}, expected a matrix", where=place(stored, name), fix=DAMAGED)
    return rows, columns


def _bits_of(stored: Checkpoint, codes: str, columns: int, known: Sequence[int]) -> tuple[int, bool]:
    """Bits of a code, and whether words hold whole codes only, as older files have it.

    Raises:
        InputError: no number of bits packs so many columns into so many words, or several do.
    """
    words = stored.info(codes).shape[1]
    dense = {bits for bits in known if words_of(columns, bits) == words}
    spaced = {bits for bits in known if WORD % bits and -(-columns // (WORD // bits)) == words}
    if len(dense | spaced) != 1:
        raise InputError(
            f"holds {words} words for {columns} columns, expected the num_bits of a group in the config",
            where=place(stored, codes),
            fix=DAMAGED,
        )
    return (dense | spaced).pop(), not dense
