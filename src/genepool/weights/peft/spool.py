"""Finished tensors of an adapter, one after the other in a file of their own until all their shapes are known."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.weights.tensor_info import TensorInfo, dtype_code, tensor_bytes, torch_dtype

if TYPE_CHECKING:
    import torch


class Spool:
    """Tensors on the disk by name; several threads may add at once.

    Args:
        path: the file, made anew.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.infos = path, dict[str, TensorInfo]()
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self._file = open(path, "w+b")  # noqa: SIM115  (open until it is removed)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Keeps a tensor, in its own type."""
        tensor = tensor.to("cpu").contiguous()
        with self._lock:
            self.infos[name] = TensorInfo(tuple(tensor.shape), dtype_code(tensor.dtype))
            self._offsets[name] = self._file.seek(0, 2)
            self._file.write(tensor_bytes(tensor))

    def rename(self, name: str, new: str) -> None:
        """Gives a tensor another name."""
        self.infos[new], self._offsets[new] = self.infos.pop(name), self._offsets.pop(name)

    def read(self, name: str) -> torch.Tensor:
        """A tensor again."""
        import torch

        info = self.infos[name]
        self._file.seek(self._offsets[name])
        data = bytearray(self._file.read(info.nbytes))
        return torch.frombuffer(data, dtype=torch_dtype(info.dtype)).reshape(info.shape)

    def remove(self) -> None:
        """Ends it, and its file."""
        self._file.close()
        self.path.unlink()
