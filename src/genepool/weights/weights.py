"""`Weights`: the read-only mapping from tensor names to tensors that everything in genepool takes and gives.

A checkpoint folder, one file, "base + adapter" and the result of a merge are all `Weights`, so merges nest and a
candidate can be evaluated without touching the disk. Concrete kinds live beside this file and in `genepool.merging`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.control import Control
from genepool.weights.tensor_info import TensorInfo, tensor_bytes

if TYPE_CHECKING:
    import torch

    from genepool.weights.formats import TensorFile


class Weights(ABC):
    """A lazily read mapping of tensor names to tensors.

    Attributes:
        name: what the user calls it; appears in tables and errors.
        folder: where config and tokenizer files are found; None when there are none.
        config: the parsed config.json; None when there is none.
        chat_template: what replaces the tokenizer's own; None to leave it.
        control: the control tokens that the model is asked with; None when there are none.
    """

    name: str
    folder: Path | None = None
    config: Mapping[str, Any] | None = None
    chat_template: str | None = None
    control: Control | None = None

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer is found: `folder`, unless a merge takes another model's."""
        return self.folder

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Every tensor once: copies of one storage under a second name are left out."""

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Shape and stored type; accepts the second name of a tied tensor.

        Raises:
            KeyError: there is no such tensor.
        """

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored type. Never write into it: it may be the file itself.

        Raises:
            KeyError: there is no such tensor.
        """

    def aliases(self) -> Mapping[str, str]:
        """Second names of tied tensors -> the name in `names()` that holds the values."""
        return {}

    def stored_names(self) -> tuple[str, ...]:
        """Every name that a file of this model has: `names()`, and second names that it keeps all the same."""
        return self.names()

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        """`self[name] - base[name]` in float32; None when it is known to be zero without reading.

        Kinds that hold a change rather than a checkpoint return it exactly, without the rounding of a sum.
        """
        import torch

        return self.read(name).to(torch.float32) - base.read(name).to(torch.float32)

    def moves(self, name: str, base: Weights) -> bool:
        """Whether `self[name]` may differ from `base[name]`; False when they are known to be equal without reading."""
        return self is not base

    def holds_change(self, base: Weights) -> bool:
        """Whether its deltas to `base` are what it holds, rather than the difference of two tensors."""
        return False

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix (`TensorInfo.matrix`), in its stored type.

        What merges stream through: memory is that of the rows, where the kind can read them alone.

        Returns:
            A tensor of shape `(stop - start, columns)`. Never write into it.
        """
        return self.read(name).reshape(self.info(name).matrix)[start:stop]

    def stored_in(self, name: str) -> tuple[TensorFile, str] | None:
        """The file that holds the tensor's bytes as they are, and its name there; None when it must be computed.

        What merges read without torch where they can: `TensorFile.read_bytes`.
        """
        return None

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        """The same rows of `delta(name, base)`, `(stop - start, columns)` in float32; None when known to be zero."""
        import torch

        if not self.moves(name, base):
            return None
        stored = self.read_rows(name, start, stop)
        mine, theirs = stored.to(torch.float32), base.read_rows(name, start, stop).to(torch.float32)
        # What was converted is ours to write into, which spares a third tensor.
        return mine - theirs if mine is stored else mine.sub_(theirs)

    def fingerprint(self) -> str:
        """SHA-256, hex, over sorted (name, dtype, shape, hash of bytes), tied copies dropped.

        The same for one shard or twenty. Kinds backed by files cache it; a merge derives it from its recipe.
        """
        total = hashlib.sha256()
        for name in sorted(self.names()):
            total.update(entry_digest(name, self.info(name), tensor_bytes(self.read(name))))
        return total.hexdigest()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            self.info(name)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} tensors)"


def entry_digest(name: str, info: TensorInfo, data: memoryview) -> bytes:
    """One tensor's part of a fingerprint: SHA-256 over its name, type, shape and the hash of its bytes."""
    head = f"{name}\x1f{info.dtype}\x1f{','.join(map(str, info.shape))}\x1f".encode()
    return hashlib.sha256(head + hashlib.sha256(data).digest()).digest()
