"""A safetensors file whose tensors are appended as they are computed, in any order, by several threads.

For outputs of which neither sizes nor order are known before the work is done. The header comes first in such a file,
so room for it is kept. What is left of that in the end is given back, or in large files filled with spaces, as the
format allows.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import staging
from genepool.errors import InputError
from genepool.weights.formats.safetensors import MAX_HEADER_BYTES
from genepool.weights.tensor_info import DTYPE_BYTES, TensorInfo, dtype_code, tensor_bytes

if TYPE_CHECKING:
    import torch

# A generous header entry, beside the tensor's name: type, shape, offsets and their punctuation.
_ENTRY_BYTES = 160
# Spare room is given back, by moving what follows, where it is more than this part of the file; and so much at a time.
_SPARE, _RUN = 1000, 1 << 24


class AppendingWriter:
    """Writes one safetensors file; made by `appending`.

    Args:
        handle: of the file, open for writing.
        names: of the tensors that may be written; room for the header is kept by them.
        metadata_bytes: room for the header's metadata.
    """

    def __init__(self, handle: int, names: Iterator[str] | list[str], metadata_bytes: int) -> None:
        self._handle = handle
        room = metadata_bytes + sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names) + 64
        self._header = min(room + -room % 8, MAX_HEADER_BYTES)
        self._end = 0
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}

    def reserve(self, name: str, info: TensorInfo) -> None:
        """Makes room for a tensor whose rows will come by `write_rows`."""
        with self._lock:
            assert name not in self._entries
            self._entries[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [self._end, self._end + info.nbytes],
            }
            self._end += info.nbytes

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Appends a tensor."""
        info = TensorInfo(tuple(tensor.shape), dtype_code(tensor.dtype))
        self.reserve(name, info)
        self._put(name, tensor_bytes(tensor), 0)

    def write_rows(self, name: str, start: int, rows: torch.Tensor) -> None:
        """Puts rows of a reserved tensor, from `start` on, in their place."""
        entry = self._entries[name]
        info = TensorInfo(tuple(entry["shape"]), entry["dtype"])
        # A part of one axis has an entry for each row; it is one row as a matrix.
        width = info.matrix[1] if len(info.shape) != 1 or rows.dim() != 1 else 1
        self._put(name, tensor_bytes(rows), start * width * DTYPE_BYTES[info.dtype])

    def _put(self, name: str, data: memoryview, offset: int) -> None:
        begin, end = self._entries[name]["data_offsets"]
        assert begin + offset + len(data) <= end, f"{name}: bytes beyond its end"
        offset += 8 + self._header + begin
        while data:
            written = os.pwrite(self._handle, data, offset)
            data, offset = data[written:], offset + written

    def close(self, metadata: Mapping[str, str]) -> None:
        """Writes the header.

        Raises:
            InputError: names and metadata take more than the format allows.
        """
        entries = dict(sorted(self._entries.items(), key=lambda item: item[1]["data_offsets"]))
        header = {"__metadata__": {"format": "pt", **metadata}, **entries}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > self._header:
            raise InputError(
                f"the header takes {len(text)} bytes, expected at most {self._header}",
                fix="Shorten the metadata of the file",
            )
        needed = len(text) + -len(text) % 8
        if (self._header - needed) * _SPARE > self._end:
            self._close_up(needed)
        os.pwrite(self._handle, struct.pack("<Q", self._header) + text.ljust(self._header), 0)
        os.ftruncate(self._handle, 8 + self._header + self._end)
        os.fsync(self._handle)

    def _close_up(self, header: int) -> None:
        """Moves the tensors forward to where a header of so many bytes ends."""
        for start in range(0, self._end, _RUN):
            data = os.pread(self._handle, min(_RUN, self._end - start), 8 + self._header + start)
            os.pwrite(self._handle, data, 8 + header + start)
        self._header = header


@contextmanager
def appending(
    path: Path, names: list[str], *, metadata_bytes: int = 1 << 16, overwrite: bool = False
) -> Iterator[AppendingWriter]:
    """A writer for the file at `path`, which appears, whole, when the block ends well; call `close` in it.

    Raises:
        InputError: `path` is taken, or the disk is full.
    """
    with staging.staged_file(path, overwrite=overwrite) as file:
        yield AppendingWriter(file.fileno(), names, metadata_bytes)
