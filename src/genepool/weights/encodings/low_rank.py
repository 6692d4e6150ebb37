"""A product of two factors, which is what a LoRA adapter holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genepool.weights.encodings.encoding import FACTOR, EncodedChange, Encoding, Entry, in_memory
from genepool.weights.tensor_info import torch_dtype

if TYPE_CHECKING:
    import torch


class Product(NamedTuple):
    """`factor * left @ right`, of `(rows, rank)` and `(rank, columns)` in the type they are held in."""

    left: torch.Tensor
    right: torch.Tensor
    factor: float = 1.0


class LowRank(Encoding):
    """`factor * left @ right`. The factor is kept apart, so that an adapter's matrices are stored as they are."""

    kind = "low-rank"
    form = "low-rank"
    by_rows = False

    def encode(self, change: torch.Tensor, *, rank: int = 16, dtype: str = "F32", **_: Any) -> EncodedChange:
        """The best approximation of a rank, or for large matrices one within a fraction of a percent of it."""
        import torch

        from genepool.kernels.spectral import low_rank

        # The start of the range finder is drawn for the shape alone: the same change gives the same factors.
        factors, _exact = low_rank(change, rank, torch.Generator().manual_seed(0))
        left, values, right = factors
        root = values.sqrt()
        return self.of_factors((left * root).to(torch_dtype(dtype)), (root[:, None] * right).to(torch_dtype(dtype)))

    def of_factors(self, left: torch.Tensor, right: torch.Tensor, factor: float = 1.0) -> EncodedChange:
        """What an adapter holds: `(rows, rank)` and `(rank, columns)` in one float type."""
        return EncodedChange({"left": left.contiguous(), "right": right.contiguous()}, {FACTOR: factor})

    def hold(self, name: str, shape: tuple[int, ...], product: Product) -> tuple[Encoding, Entry]:
        """A tensor's change that is held as a product, as one that is stored so."""
        return self, in_memory(name, shape, self.of_factors(*product))

    def product(self, entry: Entry) -> Product:
        """The factors of an entry, as they are stored."""
        return Product(entry.whole("left"), entry.whole("right"), entry.settings.get(FACTOR, 1.0))

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        import torch

        right = entry.kept("right", lambda: entry.whole("right").to(torch.float32))
        product: torch.Tensor = entry.parts["left"].rows(start, stop).to(torch.float32) @ right
        return product

    def check_parts(self, entry: Entry) -> None:
        rows, columns = entry.matrix
        left = entry.expect("left", (rows, None), "F32", "F16", "BF16")
        entry.expect("right", (left.shape[1], columns), "F32", "F16", "BF16")
