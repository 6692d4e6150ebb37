"""A LoRA adapter in GGUF, as llama.cpp's converter and `adapter_exporting` write it, as a `Change` of its base.

llama.cpp adds `alpha / rank * B @ A` to each matrix, with the rank of each pair (its src/llama-adapter.cpp). Query and
key rows of Llama-shaped models come back from its order.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import fingerprint_cache
from genepool.weights.change import Change, fingerprint_of
from genepool.weights.encodings.low_rank import Product
from genepool.weights.file_bytes import FileBytes
from genepool.weights.gguf.adapter_exporting import EMBEDDING
from genepool.weights.gguf.architectures import architecture_named, from_pairs
from genepool.weights.gguf.header import GgufHeader, StoredTensor, read_header
from genepool.weights.gguf.stored_rows import stored_rows
from genepool.weights.tensor_info import shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

_ENDS = (".lora_a", ".lora_b")
_FIX = "Name the base it was trained on"


def is_gguf_adapter(path: Path) -> bool:
    """Whether a path is a GGUF file that holds an adapter."""
    return path.suffix.lower() == ".gguf" and path.is_file() and read_header(path).text("general.type") == "adapter"


class GgufAdapter(Change):
    """What a LoRA adapter in a GGUF file adds to its base.

    Args:
        path: the file.
        base: the model it was trained on, in Hugging Face's layout or in GGUF.
        name: what the user calls it.

    Raises:
        InputError: no LoRA adapter, a damaged one, or one made for tensors the base does not have.
    """

    kind = "gguf-lora"
    base: Weights
    path: Path

    def __init__(self, path: str | Path, base: Weights, name: str | None = None) -> None:
        self.path, self.base, self.name = Path(path), base, name or str(path)
        header = read_header(self.path)
        for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
            if (found := header.text(key)) != expected:
                raise InputError(
                    f"got {found!r}, expected {expected!r}", where=header.where(key), fix="Name an adapter"
                )
        self._alpha = header.real("adapter.lora.alpha")
        self._bytes = FileBytes(self.path)
        self._pairs = self._collect(header)

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if name in self._pairs)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def factors(self, name: str) -> Product:
        a, b, heads = self._pairs[name]
        right, left = self._read(a), self._read(b)
        return Product(
            from_pairs(left, heads) if heads else left,
            right.mT if a.name == f"{EMBEDDING}.lora_a" else right,
            self._alpha / b.shape[1],
        )

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        product = self.factors(name)
        found: torch.Tensor = product.factor * (product.left[start:stop].float() @ product.right.float())
        return found

    def identity(self) -> dict[str, Any]:
        fingerprint = fingerprint_of(self.kind, self.base, self.digest())
        return {"models": [{"name": str(self.path), "fingerprint": fingerprint}]}

    def digest(self) -> str:
        return fingerprint_cache.cached([self.path], self._hash)

    def _hash(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _read(self, stored: StoredTensor) -> torch.Tensor:
        return stored_rows(self._bytes, stored, 0, stored.shape[0])

    def _collect(self, header: GgufHeader) -> dict[str, tuple[StoredTensor, StoredTensor, int]]:
        """Tensor of the base -> its factors A and B, and the heads that B's rows are ordered by pairs in."""
        architecture = architecture_named(header.text("general.architecture"), header.where("general.architecture"))
        held = {tensor.name: tensor for tensor in header.tensors}
        found = {}
        for stored in header.tensors:
            place, end = stored.name[:-7], stored.name[-7:]
            if end not in _ENDS:
                raise InputError(
                    "is not a factor of an adapter", where=header.where(stored.name), fix="Convert it again"
                )
            name = architecture.name_of(place)
            if name is None or self.base.aliases().get(name, name) not in self.base:
                raise InputError(
                    f"changes {name or place}, which the base {self.base.name} does not have",
                    where=header.where(stored.name),
                    fix=_FIX,
                )
            pair = [held.get(place + one) for one in _ENDS]
            a, b = pair
            if a is None or b is None:
                raise InputError("its other factor is missing", where=header.where(stored.name), fix="Convert it again")
            name = self.base.aliases().get(name, name)
            heads = architecture.heads_of(place, self.base.config or {})
            self._check(header, name, a, b, heads)
            found[name] = a, b, heads
        return found

    def _check(self, header: GgufHeader, name: str, a: StoredTensor, b: StoredTensor, heads: int) -> None:
        expected = self.base.info(name).shape
        fits = len(a.shape) == len(b.shape) == 2 and all((*a.shape, *b.shape))
        if fits:
            columns, rank = a.shape if a.name.startswith(f"{EMBEDDING}.") else a.shape[::-1]
            fits = rank == b.shape[1] and expected == (b.shape[0], columns)
        if not fits or (heads and b.shape[0] % (2 * heads)):
            raise InputError(
                f"factors {shape_text(a.shape)} and {shape_text(b.shape)} do not fit {name} of the base, "
                f"{shape_text(expected)}",
                where=header.where(b.name),
                fix=_FIX,
            )
