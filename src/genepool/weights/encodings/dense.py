"""Every entry of the change, in a float type of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry
from genepool.weights.tensor_info import TensorInfo, torch_dtype

if TYPE_CHECKING:
    import torch


class Dense(Encoding):
    """Exact in "F32", to rounding in "BF16" and "F16"."""

    kind = "dense"
    form = "dense"

    def encode(self, change: torch.Tensor, *, dtype: str = "F32", **_: Any) -> EncodedChange:
        return EncodedChange({"": change.to(torch_dtype(dtype))})

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        import torch

        return entry.parts[""].rows(start, stop).to(torch.float32, copy=True)

    def check_parts(self, entry: Entry) -> None:
        entry.expect("", entry.shape, "F32", "F16", "BF16")

    def layout(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, TensorInfo]:
        return {"": TensorInfo(shape, settings.get("dtype", "F32"))}
