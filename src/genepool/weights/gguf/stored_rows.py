"""Rows of a tensor of a GGUF file, in the file's own order, as torch holds them; Q8_0 as the float32 it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.file_bytes import FileBytes
from genepool.weights.gguf.ggml_types import Q8_0, STORED_AS, q8_values, row_bytes
from genepool.weights.gguf.header import StoredTensor
from genepool.weights.tensor_info import TensorInfo, tensor_bytes, torch_dtype

if TYPE_CHECKING:
    import torch


def stored_rows(file: FileBytes, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of a tensor as a matrix, in memory of their own."""
    import torch

    info = TensorInfo(stored.shape, STORED_AS[stored.kind])
    columns = info.matrix[1]
    nbytes = row_bytes(stored.kind, columns)
    if stored.kind != Q8_0:
        rows = torch.empty((stop - start, columns), dtype=torch_dtype(info.dtype))
        file.fill(tensor_bytes(rows), stored.offset + start * nbytes)
        return rows
    data = memoryview(bytearray((stop - start) * nbytes))
    file.fill(data, stored.offset + start * nbytes)
    return torch.from_numpy(q8_values(data)).reshape(stop - start, columns)
