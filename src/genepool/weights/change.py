"""`Change`: what differs from a base model, tensor by tensor; and `BaseWithChange`, the model that a change makes.

A skill file, a PEFT adapter, the difference of two models, a sum of changes and a part of one are all `Change`s, read
block by block. Kinds that open files, and sums, live in `genepool.weights`; masks in `genepool.skills`. Merging reads
them through `BaseWithChange`, skills store them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.weights.class_head import BaseWithHead
from genepool.weights.control import Control, joined_control
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.encodings.low_rank import LowRank, Product
from genepool.weights.header import Header
from genepool.weights.tensor_info import TensorInfo, torch_dtype
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

# Entries of a block: a float32 copy takes 1 MB, which stays in the processor's cache while a method works on it, and is
# large enough that the interpreter's share vanishes.
BLOCK_ENTRIES = 1 << 18


def block_rows(rows: int, columns: int) -> list[tuple[int, int]]:
    """(start, stop) of the blocks of rows that a matrix is streamed in."""
    step = max(1, BLOCK_ENTRIES // max(1, columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


class Change(ABC):
    """What differs from a base, tensor by tensor, read when it is asked for.

    A kind says `names`, `shape` and `rows`, and more where it knows more.

    Class attributes:
        kind: what the fingerprint of a base with it begins with, for kinds that have a digest.

    Attributes:
        name: what the user calls it.
        base: the model it is relative to, where that is open.
        path: the file or folder it is read from; None when there is none.
        control: the control tokens that a base with it is asked with; None: the base's own.
    """

    kind: ClassVar[str] = ""
    name: str
    base: Weights | None = None
    path: Path | None = None
    control: Control | None = None

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The tensors that may be changed."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one of them."""

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of the change of a tensor as a matrix, `(stop - start, columns)` float32. Never write into them."""

    def rows_into(
        self, name: str, start: int, stop: int, out: torch.Tensor, base_rows: Callable[[], torch.Tensor] | None = None
    ) -> None:
        """The same, written into a tensor.

        Args:
            name, start, stop: as for `rows`.
            out: `(stop - start, columns)` float32, contiguous.
            base_rows: reads these rows of `base`, once for all who ask; None where nobody shares them.
        """
        out.copy_(self.rows(name, start, stop))

    def whole(self, name: str) -> torch.Tensor:
        """All of them, `(rows, columns)`."""
        return self.rows(name, 0, self.matrix(name)[0])

    def whole_and_rounding(self, name: str) -> tuple[torch.Tensor, float]:
        """The same, and the largest singular value that rounding alone puts into it; 0 where it is not known."""
        return self.whole(name), 0.0

    def matrix(self, name: str) -> tuple[int, int]:
        """(rows, columns) of a tensor as a matrix."""
        return TensorInfo(self.shape(name), "F32").matrix

    def numel(self, name: str) -> int:
        """Number of its entries."""
        return TensorInfo(self.shape(name), "F32").numel

    def moves(self, name: str) -> bool:
        """Whether any entry of it changes; True where that is not known without reading all of it."""
        return True

    def working_bytes(self, name: str) -> int:
        """Bytes that computing all of it takes beside the result, about: two tensors it is the difference of."""
        return 8 * self.numel(name)

    def factors(self, name: str) -> Product | None:
        """A change that is a product of two matrices, as it is held; None for what is no product."""
        return None

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        """How the change is stored, where it is stored in a form of its own; products are of low rank."""
        factors = self.factors(name)
        return None if factors is None else LowRank().hold(name, self.shape(name), factors)

    @cached_property
    def header(self) -> Header:
        """What is known about it: its base, words, lineage, scores."""
        if self.base is None:
            return Header()
        head = self.base.head.to_dict() if isinstance(self.base, BaseWithHead) else {}
        control = {} if self.control is None else self.control.to_dict()
        return Header(self.base.fingerprint(), self.base.name, head=head, control=control)

    def identity(self) -> dict[str, Any]:
        """What goes into the lineage of what is made of it: {"parents": [..]} or {"models": [..]}."""
        return {}

    def digest(self) -> str | None:
        """SHA-256, hex, of what it is made of, where that is known without computing it."""
        return None

    def applied(self, name: str | None = None) -> Weights:
        """The base with it, to be asked, merged or written; only for a change whose base is open.

        Args:
            name: what to call the whole; the change's name when None.
        """
        assert self.base is not None, f"the base of {self.name} is not open"
        return BaseWithChange(self.base, self, name)


class BaseWithChange(Weights):
    """A base with a change. Its deltas to that base are the change, exactly, without the rounding of a sum.

    Args:
        base: the model that is changed.
        change: what is added to it. Tensors it does not name are the base's own.
        name: what the user calls the whole; the change's name when None.
        sums: the same model where it is already in memory; nothing is added up then.
        dtype: safetensors name of the type float tensors are given in; as the base stores them when None.
        fingerprint: when it is known without hashing.
    """

    def __init__(
        self,
        base: Weights,
        change: Change,
        name: str | None = None,
        *,
        sums: Weights | None = None,
        dtype: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.base, self.change, self.name = base, change, name or change.name
        self._sums, self._like = sums, base if sums is None else sums
        self.folder, self.config = self._like.folder, self._like.config
        self.chat_template = self._like.chat_template
        self.control = joined_control(base.control, change.control, self.name)
        self._dtype, self._fingerprint = dtype, fingerprint
        self._aliases = self._like.aliases()
        # The base may hold a tensor under another name than the change was made with.
        self._changed = {self._aliases.get(own, own): own for own in change.names()}

    @property
    def tokenizer_folder(self) -> Path | None:
        return self._like.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return self._like.names()

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def stored_names(self) -> tuple[str, ...]:
        return self._like.stored_names()

    def info(self, name: str) -> TensorInfo:
        info = self._like.info(name)
        return info if self._dtype is None or not info.is_float else info.with_dtype(self._dtype)

    def read(self, name: str) -> torch.Tensor:
        if self._sums is not None:
            return self._sums.read(name)
        return self._given(_added(self.base.read(name), self.delta(name, self.base)))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if self._sums is not None:
            return self._sums.read_rows(name, start, stop)
        rows = self.base.read_rows(name, start, stop)
        return self._given(_added(rows, self.delta_rows(name, self.base, start, stop)))

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        if base is not self.base:
            return super().delta(name, base)
        own = self._own(name)
        return None if own is None else self.change.whole(own).reshape(self.info(name).shape)

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        if base is not self.base:
            return super().delta_rows(name, base, start, stop)
        own = self._own(name)
        return None if own is None else self.change.rows(own, start, stop)

    def moves(self, name: str, base: Weights) -> bool:
        return base is not self.base or self._own(name) is not None

    def holds_change(self, base: Weights) -> bool:
        return base is self.base

    def fingerprint(self) -> str:
        if self._fingerprint is not None:
            return self._fingerprint
        if self._sums is not None:
            return self._sums.fingerprint()
        digest = self.change.digest()
        if digest is None:
            return super().fingerprint()
        return fingerprint_of(self.change.kind, self.base, digest)

    def _own(self, name: str) -> str | None:
        """What the change calls a tensor; None where it does not change it."""
        return self._changed.get(self._aliases.get(name, name))

    def _given(self, stored: torch.Tensor) -> torch.Tensor:
        return stored if self._dtype is None or not stored.is_floating_point() else stored.to(torch_dtype(self._dtype))


def fingerprint_of(kind: str, base: Weights, digest: str) -> str:
    """SHA-256, hex, of a base with a change of a kind."""
    return hashlib.sha256(f"{kind}\x1f{base.fingerprint()}\x1f{digest}".encode()).hexdigest()


def _added(stored: torch.Tensor, change: torch.Tensor | None) -> torch.Tensor:
    import torch

    return stored if change is None else (stored.to(torch.float32) + change).to(stored.dtype)
