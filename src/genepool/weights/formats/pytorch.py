"""One PyTorch checkpoint file (.bin, .pt, .pth), opened only where the user asked for pickles.

`torch.load(weights_only=True)` rebuilds tensors and plain containers and refuses everything else, so nothing in the
file can run; tensors stay in the file and are mapped when they are read.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, one_line
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.tensor_info import TensorInfo, dtype_code

if TYPE_CHECKING:
    import torch

_ADAPTER_FILE = "adapter_model.bin"
# What a trainer leaves beside the weights, none of it weights.
_TRAINER_FILES = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
# Keys under which training frameworks put the weights beside an optimizer's state.
_WRAPPERS = ("state_dict", "model", "module")
_ZIP = b"PK\x03\x04"
_AGAIN = "The file is damaged or no checkpoint: fetch or write it again"


class PickleFile(TensorFile):
    """A mapping of names to tensors in one PyTorch file.

    Attributes:
        path: the file.
        infos: shape and type of every tensor.
        shared: names whose tensor is a second view of the very same values -> the name that came first.

    Raises:
        InputError: the file is missing or damaged, holds something else than tensors, or a tensor claims more
            values than the file has.
    """

    title = "PyTorch pickle"
    suffixes = frozenset({".bin", ".pt", ".pth", ".ckpt"})
    preference = 2
    model_file, index_file, adapter_file = "pytorch_model.bin", "pytorch_model.bin.index.json", _ADAPTER_FILE
    hub_files = ("pytorch_model*.bin", "pytorch_model.bin.index.json", _ADAPTER_FILE)
    no_models = frozenset({*_TRAINER_FILES, _ADAPTER_FILE})
    runs_code = True

    shared: dict[str, str]

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._tensors = self._named(_load(self.path))
        self.infos = {}
        self.metadata = {}
        self.shared = {}
        size = self.path.stat().st_size
        seen: dict[tuple[Any, ...], str] = {}
        for name, tensor in self._tensors.items():
            self.infos[name] = self._checked(name, tensor, size)
            view = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            if tensor.numel() and seen.setdefault((*view, tensor.dtype), name) != name:
                self.shared[name] = seen[(*view, tensor.dtype)]

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in its stored type, backed by the file's pages. Never write into it."""
        return self._tensors[name]

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix. Never write into them."""
        return self._tensors[name].reshape(self.infos[name].matrix)[start:stop]

    def _named(self, content: object) -> dict[str, torch.Tensor]:
        import torch

        if isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
        if not isinstance(content, Mapping):
            raise InputError("is not a mapping of names to tensors", where=self.path, fix="Name a file of weights")
        for name, value in content.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise InputError(
                    f"holds a {type(value).__name__}, expected a tensor",
                    where=f"{self.path}:{name}",
                    fix="Name a file of weights; this one may be a trainer's state",
                )
        return {name: value.detach() for name, value in content.items()}

    def _checked(self, name: str, tensor: torch.Tensor, size: int) -> TensorInfo:
        import torch

        where = f"{self.path}:{name}"
        try:
            info = TensorInfo(tuple(tensor.shape), dtype_code(tensor.dtype))
        except KeyError:
            info = None
        if info is None or tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = tensor.dtype if info is None or tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            raise InputError(
                f"is a tensor of layout {kind}, expected a dense one", where=where, fix="Save ordinary dense tensors"
            )
        # A stride of zero makes a terabyte out of four bytes.
        if info.nbytes > min(size, tensor.untyped_storage().nbytes()):
            raise InputError(f"claims {info.nbytes} bytes, and the file has {size}", where=where, fix=_AGAIN)
        return info


def _load(path: Path) -> object:
    import torch

    try:
        with open(path, "rb") as file:
            # Files from before torch 1.6 are no archives and cannot be mapped: they are read whole.
            mapped = file.read(4) == _ZIP
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix="Check the path") from None
    except IsADirectoryError:
        raise InputError("is a folder, expected a file", where=path, fix="Name a file") from None
    except PermissionError:
        raise InputError("cannot be read", where=path, fix="Check its permissions") from None
    except pickle.UnpicklingError as error:
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"asks for {asked[1]}, which is not a tensor: opening it could run code",
                where=path,
                fix="Do not use this file, or have its author save it as safetensors",
            ) from None
        raise InputError("is not a PyTorch checkpoint", where=path, fix=_AGAIN) from None
    except Exception as error:
        # Whatever a damaged archive makes torch say (RuntimeError, EOFError, MemoryError, KeyError and more).
        raise InputError(
            f"is not a readable PyTorch checkpoint ({type(error).__name__}: {one_line(error)})", where=path, fix=_AGAIN
        ) from None
