"""One safetensors file: a header that is not trusted, and tensors that are mapped when they are asked for.

The format (huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header, one byte buffer. A file that
lies about any offset, shape or length is refused before anything is allocated.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.bounded import refuse_values
from genepool.errors import InputError
from genepool.weights.file_bytes import DAMAGED, FileBytes, opened
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.tensor_info import DTYPE_BYTES, TensorInfo, tensor_bytes, torch_dtype

if TYPE_CHECKING:
    import torch

# The limit of the reference implementation; a real header of ten thousand tensors is about 1.5 MB.
MAX_HEADER_BYTES = 100_000_000
MODEL_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"


class SafetensorsFile(TensorFile):
    """A mapping of names to tensors in one file.

    Attributes:
        path: the file.
        infos: shape and type of every tensor, in the order of their bytes.
        metadata: the header's `__metadata__`, strings to strings.

    Raises:
        InputError: the file is missing, truncated, or its header contradicts itself.
    """

    title = "safetensors file"
    suffixes = frozenset({".safetensors"})
    preference = 0
    model_file, index_file, adapter_file = MODEL_FILE, INDEX_FILE, ADAPTER_FILE
    hub_files = ("*.safetensors", "*.safetensors.index.json")
    no_models = frozenset({ADAPTER_FILE})

    metadata: dict[str, str]

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.infos = {}
        self.metadata = {}
        self.shared = {}
        self._offsets: dict[str, int] = {}
        self._map: mmap.mmap | None = None
        self._bytes = FileBytes(self.path)
        with opened(self.path, self.title) as file:
            self._parse(file.read(8), os.fstat(file.fileno()).st_size, file)

    def _parse(self, prefix: bytes, size: int, file: Any) -> None:
        if len(prefix) < 8:
            raise InputError(f"has {size} bytes, too few for a safetensors file", where=self.path, fix=DAMAGED)
        (length,) = struct.unpack("<Q", prefix)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise InputError(f"the header claims {length} bytes, and the file has {size}", where=self.path, fix=DAMAGED)
        text = file.read(length)
        refuse_values(text, where=self.path, fix=DAMAGED)
        try:
            header = json.loads(text, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the header is not valid JSON ({error})", where=self.path, fix=DAMAGED) from None
        if not isinstance(header, dict):
            raise InputError("the header is not a JSON object", where=self.path, fix=DAMAGED)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise InputError("__metadata__ is not a map of strings", where=self.path, fix=DAMAGED)
        self.metadata = metadata
        self._start = 8 + length
        spans = sorted((*self._check_entry(name, entry), name) for name, entry in header.items())
        expected = 0
        for begin, end, name in spans:
            if begin != expected:
                raise InputError(
                    f"its bytes begin at {begin}, expected {expected}",
                    where=f"{self.path}:{name}",
                    fix=DAMAGED,
                )
            expected = end
            self._offsets[name] = self._start + begin
        if expected != size - self._start:
            raise InputError(
                f"the tensors take {expected} bytes, and the file holds {size - self._start}",
                where=self.path,
                fix=DAMAGED,
            )
        # In the order of their bytes, so that reading them in turn reads the disk in turn.
        self.infos = {name: self.infos[name] for _, _, name in spans}

    def _check_entry(self, name: str, entry: object) -> tuple[int, int]:
        where = f"{self.path}:{name}"
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {name!r} is not text", where=self.path, fix=DAMAGED) from None
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise InputError("the header entry needs dtype, shape and data_offsets", where=where, fix=DAMAGED)
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            raise InputError(
                f"has the unknown dtype {dtype!r}", where=where, fix="Known here: " + ", ".join(sorted(DTYPE_BYTES))
            )
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise InputError("shape or data_offsets is not a list of whole numbers", where=where, fix=DAMAGED)
        info = TensorInfo(tuple(shape), dtype)
        if offsets[1] - offsets[0] != info.nbytes:
            raise InputError(
                f"{list(shape)} of {dtype} takes {info.nbytes} bytes, data_offsets say {offsets[1] - offsets[0]}",
                where=where,
                fix=DAMAGED,
            )
        self.infos[name] = info
        return offsets[0], offsets[1]

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < max(self._offsets.values(), default=0):
                    raise InputError("the file became shorter while it was in use", where=self.path, fix=DAMAGED)
                # ACCESS_COPY: pages come from the page cache, and torch gets the writable buffer it insists on.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._map

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in its stored type, backed by the file's pages. Never write into it."""
        import torch

        info = self.infos[name]
        if info.numel == 0:
            return torch.empty(info.shape, dtype=torch_dtype(info.dtype))
        flat = torch.frombuffer(
            self._mapping(), dtype=torch_dtype(info.dtype), count=info.numel, offset=self._offsets[name]
        )
        return flat.reshape(info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix, copied into memory of their own."""
        import torch

        info = self.infos[name]
        rows = torch.empty((stop - start, info.matrix[1]), dtype=torch_dtype(info.dtype))
        self.read_bytes(name, start, stop, tensor_bytes(rows))
        return rows

    def holds_bytes(self, name: str) -> bool:
        return True

    def read_bytes(self, name: str, start: int, stop: int, into: memoryview) -> None:
        info = self.infos[name]
        row_bytes = info.matrix[1] * DTYPE_BYTES[info.dtype]
        assert len(into) == (stop - start) * row_bytes
        self._bytes.fill(into, self._offsets[name] + start * row_bytes)

    def read_entries(self, name: str, start: int, stop: int) -> torch.Tensor:
        """A run of the tensor's entries in row-major order, `(stop - start,)`, copied into memory of their own."""
        import torch

        info = self.infos[name]
        assert 0 <= start <= stop <= info.numel
        run = torch.empty(stop - start, dtype=torch_dtype(info.dtype))
        self._bytes.fill(tensor_bytes(run), self._offsets[name] + start * DTYPE_BYTES[info.dtype])
        return run

    def view_bytes(self, name: str) -> memoryview:
        """The tensor's bytes as stored, without a copy."""
        nbytes = self.infos[name].nbytes
        if nbytes == 0:
            return memoryview(b"")
        return memoryview(self._mapping())[self._offsets[name] : self._offsets[name] + nbytes]


def _no_duplicates(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)
