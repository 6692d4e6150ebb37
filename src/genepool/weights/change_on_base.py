"""What adapters and skills on a base share: the base's tensors, some of them moved by a change that is held."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.weights.source import Weights
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


class ChangeOnBase(Weights):
    """A base with a change. Its deltas to that base are what it holds, exactly, without the rounding of a sum.

    Args:
        base: the model that is changed.
        name: what the user calls the whole.
    """

    def __init__(self, base: Weights, name: str) -> None:
        self.base, self.name = base, name
        self.folder, self.config, self.chat_template = base.folder, base.config, base.chat_template

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.base.tokenizer_folder

    @abstractmethod
    def changed(self) -> frozenset[str]:
        """Names of the base's tensors that it changes."""

    @abstractmethod
    def change(self, name: str) -> torch.Tensor:
        """The change of one of these, float32, of the tensor's shape."""

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of it, `(stop - start, columns)`; kinds that can compute them alone do."""
        return self.change(name).reshape(self.info(name).matrix)[start:stop]

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """A change that is a product, as it is held: `(rows, rank)`, `(rank, columns)` and the factor of it.

        None for what is no product.
        """
        return None

    def names(self) -> tuple[str, ...]:
        return self.base.names()

    def aliases(self) -> Mapping[str, str]:
        return self.base.aliases()

    def info(self, name: str) -> TensorInfo:
        return self.base.info(name)

    def read(self, name: str) -> torch.Tensor:
        return _moved(self.base.read(name), self.delta(name, self.base))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self.base.read_rows(name, start, stop)
        return _moved(rows, self.delta_rows(name, self.base, start, stop))

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        if base is not self.base:
            return super().delta(name, base)
        return self.change(self._stored(name)) if self.moves(name, base) else None

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        if base is not self.base:
            return super().delta_rows(name, base, start, stop)
        return self.change_rows(self._stored(name), start, stop) if self.moves(name, base) else None

    def moves(self, name: str, base: Weights) -> bool:
        return base is not self.base or self._stored(name) in self.changed()

    def holds_change(self, base: Weights) -> bool:
        return base is self.base

    def _stored(self, name: str) -> str:
        return self.aliases().get(name, name)


def _moved(stored: torch.Tensor, change: torch.Tensor | None) -> torch.Tensor:
    import torch

    return stored if change is None else (stored.to(torch.float32) + change).to(stored.dtype)
