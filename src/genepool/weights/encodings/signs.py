"""One bit an entry: its sign, times the mean magnitude of its row (Liu et al., BitDelta, arXiv:2402.10193)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.bits import pack_bits, unpack_bits
from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


class Signs(Encoding):
    """Signs, and one scale for each row: its mean magnitude, which has the least squared error.

    BitDelta has one scale for a matrix; one for each row costs 32 bits more a row and loses less.
    """

    kind = "signs"
    form = "packed"

    def encode(self, change: torch.Tensor, **_: Any) -> EncodedChange:
        return EncodedChange({"bits": pack_bits(change >= 0), "scales": change.abs().mean(1)})

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        import torch

        positive = unpack_bits(entry.parts["bits"].rows(start, stop), entry.matrix[1])
        scales = entry.parts["scales"].entries(start, stop)[:, None]
        return torch.where(positive, scales, -scales)

    def check_parts(self, entry: Entry) -> None:
        rows, columns = entry.matrix
        entry.expect("bits", (rows, -(-columns // 8)), "U8")
        entry.expect("scales", (rows,), "F32")

    def layout(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, TensorInfo]:
        rows, columns = TensorInfo(shape, "F32").matrix
        return {"bits": TensorInfo((rows, -(-columns // 8)), "U8"), "scales": TensorInfo((rows,), "F32")}
