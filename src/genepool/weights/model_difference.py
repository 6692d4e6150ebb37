"""The difference of two models as a `Change`: what a fine-tune learned, where only the models are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.kernels.reading import subtract
from genepool.weights.change import Change, block_rows
from genepool.weights.tensor_info import shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class ModelDifference(Change):
    """`tuned - base`, of two models of one architecture.

    Args:
        tuned: the fine-tune.
        base: what it was fine-tuned from.

    Raises:
        InputError: they do not line up.
    """

    base: Weights

    def __init__(self, tuned: Weights, base: Weights) -> None:
        self.tuned, self.base, self.name = tuned, base, tuned.name
        for name in base.names():
            if name not in tuned:
                raise InputError(f"{tuned.name} has no tensor {name}", where=tuned.name, fix="Name its own base")
            ours, theirs = base.info(name).shape, tuned.info(name).shape
            if ours != theirs:
                raise InputError(
                    f"shape {shape_text(theirs)} where {base.name} has {shape_text(ours)}",
                    where=f"{tuned.name}:{name}",
                    fix="Name its own base",
                )
        extra = next((name for name in tuned.names() if name not in base), None)
        if extra is not None:
            raise InputError(
                f"{tuned.name} has tensors its base has not ({extra})", where=base.name, fix="Name its own base"
            )

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if self.base.info(name).is_float and self.base.info(name).numel)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        if self.tuned.holds_change(self.base):
            found = self.tuned.delta_rows(name, self.base, start, stop)
            return torch.zeros(stop - start, self.matrix(name)[1]) if found is None else found
        mine, theirs = self.tuned.read_rows(name, start, stop), self.base.read_rows(name, start, stop)
        out = torch.empty(mine.shape)
        subtract(mine.contiguous(), theirs.contiguous(), out)
        return out

    def moves(self, name: str) -> bool:
        if not self.tuned.moves(name, self.base):
            return False
        # A tensor that moved shows it in its first block; only one that did not is read to its end.
        return any(bool(self.rows(name, a, b).any()) for a, b in block_rows(*self.matrix(name)))

    def identity(self) -> dict[str, Any]:
        return {"models": [{"name": self.tuned.name, "fingerprint": self.tuned.fingerprint()}]}

    def applied(self, name: str | None = None) -> Weights:
        """The fine-tune itself, without the rounding of a difference and a sum."""
        return self.tuned
