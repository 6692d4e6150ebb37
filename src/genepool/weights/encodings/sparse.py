"""The entries that are not zero, and where they are: a bitmap, or the columns of each row, whichever is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.bits import pack_bits, unpack_bits
from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry
from genepool.weights.tensor_info import torch_dtype

if TYPE_CHECKING:
    import torch


class Sparse(Encoding):
    """`counts` per row; `values` in the order of the rows; `columns` of two or four bytes, or a `bitmap`."""

    kind = "sparse"
    form = "sparse"

    def encode(self, change: torch.Tensor, *, dtype: str = "BF16", least: float = 0.0, **_: Any) -> EncodedChange:
        """As `Encoding.encode`; entries of magnitudes below `least` are left out."""
        import torch

        mask = (change != 0) & (change.abs() >= least)
        counts = mask.sum(1, dtype=torch.int32)
        return EncodedChange(
            {"counts": counts, "values": change[mask].to(torch_dtype(dtype)), "bitmap": pack_bits(mask)}
        )

    def join(self, blocks: Sequence[EncodedChange], columns: int) -> EncodedChange:
        import torch

        parts = dict(super().join(blocks, columns).parts)
        width = 2 if columns <= 1 << 16 else 4
        if len(parts["values"]) * width >= parts["bitmap"].numel():
            return EncodedChange(parts)
        found = [unpack_bits(block.parts["bitmap"], columns).nonzero()[:, 1].to(torch.int32) for block in blocks]
        places = torch.cat(found)
        # torch computes little with unsigned types; the bytes are what counts.
        parts["columns"] = places.to(torch.int16).view(torch.uint16) if width == 2 else places
        del parts["bitmap"]
        return EncodedChange(parts)

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        import torch

        columns = entry.matrix[1]
        out = torch.zeros(stop - start, columns)
        counts = entry.kept("counts", lambda: entry.whole("counts").long())
        if bool((counts < 0).any()):
            raise entry.broken("a row has fewer than no values")
        first, last = int(counts[:start].sum()), int(counts[:stop].sum())
        if last > entry.parts["values"].info.numel:
            raise entry.broken("its rows have more values than are stored")
        values = entry.parts["values"].entries(first, last).to(torch.float32)
        if "bitmap" in entry.parts:
            mask = unpack_bits(entry.parts["bitmap"].rows(start, stop), columns)
            if int(mask.sum()) != len(values):
                raise entry.broken("bitmap and values do not go together")
            out[mask] = values
            return out
        places = entry.parts["columns"].entries(first, last).to(torch.int64)
        if len(places) and (int(places.max()) >= columns or int(places.min()) < 0):
            raise entry.broken("a value lies outside its row")
        lines = torch.repeat_interleave(torch.arange(stop - start), counts[start:stop])
        out[lines, places] = values
        return out

    def check_parts(self, entry: Entry) -> None:
        rows, columns = entry.matrix
        entry.expect("counts", (rows,), "I32")
        values = entry.expect("values", (None,), "F32", "F16", "BF16")
        if "bitmap" in entry.parts:
            entry.expect("bitmap", (rows, -(-columns // 8)), "U8")
        else:
            entry.expect("columns", values.shape, "U16" if columns <= 1 << 16 else "I32")
        if values.numel > rows * columns:
            raise entry.broken("it has more values than the tensor has entries")
