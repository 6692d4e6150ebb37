"""One GGUF file: a model as llama.cpp keeps it, under transformers' names, with its config and tokenizer in the header.

Tensors of type F32, F16 and BF16 are given as they are, Q8_0 as the float32 values it stands for. Rows are read when
they are asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.file_bytes import FileBytes
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.gguf.architectures import (
    ROPE_FACTORS,
    GgufArchitecture,
    architecture_named,
    covering_heads,
    from_pairs,
)
from genepool.weights.gguf.ggml_types import F32, Q8_0, STORED_AS, row_bytes
from genepool.weights.gguf.header import MAGIC, TITLE, GgufHeader, StoredTensor, read_header
from genepool.weights.gguf.settings import config_of
from genepool.weights.gguf.stored_rows import stored_rows
from genepool.weights.gguf.tokenizer_reading import tokenizer_files
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


class GgufFile(TensorFile):
    """A mapping of names to tensors in one GGUF file.

    Attributes:
        config: config.json of the model.

    Raises:
        InputError: the file is missing or damaged, or it holds an architecture, a type of tensors or a tokenizer that
            is not read here.
    """

    title = TITLE
    suffixes = frozenset({".gguf"})
    magic = MAGIC
    preference = 1
    self_contained = True

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self.metadata = self.header.values
        self.shared = {}
        self._bytes = FileBytes(self.path)
        _check_kind(self.header)
        architecture = architecture_named(
            self.header.text("general.architecture"), self.header.where("general.architecture")
        )
        names = [tensor.name for tensor in self.header.tensors]
        self.config = config_of(self.header, architecture, names, self._factors())
        self._stored = {
            _name_of(architecture, tensor, self.header): tensor
            for tensor in self.header.tensors
            if tensor.name != ROPE_FACTORS
        }
        self._heads = {name: architecture.heads_of(one.name, self.config) for name, one in self._stored.items()}
        self.infos = {name: self._info(name, tensor) for name, tensor in self._stored.items()}

    def companions(self) -> dict[str, str]:
        roles = ("bos_token_id", "eos_token_id", "pad_token_id")
        special = {role: self.config[role] for role in roles if role in self.config}
        return {
            "config.json": json.dumps(self.config, indent=2, sort_keys=True) + "\n",
            "generation_config.json": json.dumps(special, indent=2) + "\n",
            **tokenizer_files(self.header),
        }

    def holds_bytes(self, name: str) -> bool:
        return not self._heads[name] and self._stored[name].kind != Q8_0

    def read(self, name: str) -> torch.Tensor:
        info = self.infos[name]
        return self.read_rows(name, 0, info.matrix[0]).reshape(info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix, in memory of their own."""
        heads, (rows, columns) = self._heads[name], self.infos[name].matrix
        if not heads:
            return self._rows(name, start, stop)
        if len(self.infos[name].shape) == 1:
            # A bias has an entry for each row of its matrix.
            return from_pairs(self._rows(name, 0, 1).reshape(columns, 1), heads).reshape(1, columns)[start:stop]
        first, last = covering_heads(start, stop, rows, heads)
        ordered = from_pairs(self._rows(name, first, last), (last - first) * heads // rows)
        return ordered[start - first : stop - first]

    def read_bytes(self, name: str, start: int, stop: int, into: memoryview) -> None:
        if not self.holds_bytes(name):
            super().read_bytes(name, start, stop, into)
            return
        stored = self._stored[name]
        self._bytes.fill(into, stored.offset + start * row_bytes(stored.kind, stored.shape[-1]))

    def _rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows in the file's own order."""
        return stored_rows(self._bytes, self._stored[name], start, stop)

    def _info(self, name: str, stored: StoredTensor) -> TensorInfo:
        heads, rows = self._heads[name], stored.shape[0]
        if heads and rows % (2 * heads):
            raise InputError(
                f"got {rows} rows, expected an even number for each of {heads} heads",
                where=self.header.where(stored.name),
            )
        return TensorInfo(stored.shape, STORED_AS[stored.kind])

    def _factors(self) -> list[float]:
        """What the rotary frequencies are divided by; empty when the file has no such tensor."""
        stored = next((tensor for tensor in self.header.tensors if tensor.name == ROPE_FACTORS), None)
        if stored is None:
            return []
        if stored.kind != F32 or len(stored.shape) != 1 or stored.shape[0] > 1 << 16:
            raise InputError("expected a vector of F32", where=self.header.where(ROPE_FACTORS))
        data = memoryview(bytearray(stored.nbytes))
        self._bytes.fill(data, stored.offset)
        return list(data.cast("f"))


def _check_kind(header: GgufHeader) -> None:
    kind = header.text("general.type", "model")
    if kind != "model":
        raise InputError(
            f"has type {kind!r}, expected a model",
            where=header.where("general.type"),
            fix="Name the file of the model itself, or an adapter as BASE+ADAPTER",
        )
    if (parts := header.values.get("split.count", 1)) not in (0, 1):
        raise InputError(
            f"is one of the {parts} files of a split model",
            where=header.where("split.count"),
            fix="Join them first: llama-gguf-split --merge FIRST OUT",
        )


def _name_of(architecture: GgufArchitecture, tensor: StoredTensor, header: GgufHeader) -> str:
    name = architecture.name_of(tensor.name)
    if name is None:
        raise InputError(
            f"{architecture.name} has no such tensor",
            where=header.where(tensor.name),
            fix="Use the model in Hugging Face's layout",
        )
    return name
