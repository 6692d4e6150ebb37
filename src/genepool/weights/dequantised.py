"""A quantised checkpoint as the floats that it stands for, dequantised some rows at a time when they are read.

Names, shapes and types are those of an unquantised checkpoint, and so is the config, so whatever takes a checkpoint
takes this: merges, adapters, skills, networks. `schemes` knows the arithmetic. What cannot be dequantised stays a
`Checkpoint` whose config says that it is quantised, and `quantised` refuses it where numbers are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.quantised import packed_as, quantisation_of, without_quantisation
from genepool.weights.tensor_info import TensorInfo, torch_dtype
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.weights.schemes import Scheme
    from genepool.weights.schemes.packed_tensor import PackedTensor

# What transformers loads a quantised checkpoint in when its config names no type.
_DEFAULT_DTYPE = "bfloat16"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Entries that are dequantised at once where a whole tensor is asked for.
_BLOCK_ENTRIES = 1 << 18


class PackedFile(TensorFile):
    """The packed tensors of a checkpoint as a file of floats.

    Args:
        path: where they lie, for errors.
        tensors: the packed tensors.
        dtype: safetensors name of the type they are given in.
    """

    title = "quantised checkpoint"
    suffixes = frozenset()
    preference = 0

    def __init__(self, path: Path, tensors: Iterable[PackedTensor], dtype: str) -> None:
        self.path, self.metadata, self.shared = path, {}, {}
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self.infos = {name: TensorInfo(tensor.shape, dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        import torch

        info = self.infos[name]
        rows, columns = info.matrix
        found = torch.empty((rows, columns), dtype=torch_dtype(info.dtype))
        step = max(1, _BLOCK_ENTRIES // max(1, columns))
        for start in range(0, rows, step):
            found[start : start + step] = self._tensors[name].rows(start, min(start + step, rows))
        return found.reshape(info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._tensors[name].rows(start, stop).to(torch_dtype(self.infos[name].dtype)).contiguous()


class DequantisedCheckpoint(Checkpoint):
    """A quantised checkpoint, dequantised on reading.

    Args:
        stored: the checkpoint.
        scheme: how it is quantised.

    Attributes:
        stored: the checkpoint.
        scheme: how it is quantised.
        packed: the tensors that are dequantised.

    Raises:
        InputError: a packed tensor lacks a part, or its parts contradict each other.
    """

    def __init__(self, stored: Checkpoint, scheme: Scheme) -> None:
        self.stored, self.scheme = stored, scheme
        self.path, self.name, self.folder = stored.path, stored.name, stored.folder
        self.files, self.wrapped = stored.files, stored.wrapped
        self.config = without_quantisation(stored.config)
        tensors = list(scheme.packed())
        self.packed = tuple(tensor.name for tensor in tensors)
        # In the order of the codes in the files.
        first = {tensor.parts[0]: tensor for tensor in tensors}
        parts = {part for tensor in tensors for part in tensor.parts}
        dtype = _dtype_of(self.config)
        self._where: dict[str, TensorFile] = {}
        for file in stored.files:
            floats = PackedFile(file.path, (first[name] for name in file.infos if name in first), dtype)
            for name in file.infos:
                if name in first:
                    self._keep(first[name].name, floats)
                elif name not in parts and not name.endswith(scheme.unused):
                    self._keep(name, file)
        for name in self._where:
            if packed := packed_as(self, name):
                raise InputError(
                    f"is quantised ({packed}) and lacks its scale",
                    where=f"{self._where[name].path}:{name}",
                    fix="Fetch or save the model again",
                )

    def _keep(self, name: str, file: TensorFile) -> None:
        if name in self._where:
            raise InputError(
                "is stored twice, quantised and as it is",
                where=f"{file.path}:{name}",
                fix="Fetch or save the model again",
            )
        self._where[name] = file

    def stored_names(self) -> tuple[str, ...]:
        return tuple(name for name in super().stored_names() if name in self._where)

    def aliases(self) -> Mapping[str, str]:
        return {name: held for name, held in super().aliases().items() if name in self._where and held in self._where}

    def fingerprint(self) -> str:
        # What a model is known by are its files, however they are read.
        return self.stored.fingerprint()

    def told(self) -> str:
        """What is done on reading, as a clause."""
        dtypes = sorted({self.info(name).dtype for name in self.packed})
        kinds = [name for name, code in _DTYPES.items() if code in dtypes]
        tensors = "1 tensor is" if len(self.packed) == 1 else f"{len(self.packed):,} tensors are"
        return f"quantised ({self.scheme.form()}); {tensors} dequantised to {', '.join(kinds)}"


def dequantised(stored: Checkpoint) -> Checkpoint:
    """A checkpoint as floats, where it is quantised by a scheme that is read; any other as it is.

    Raises:
        InputError: as `DequantisedCheckpoint`.
    """
    settings = quantisation_of(stored.config)
    if settings is None:
        return stored
    from genepool.weights.schemes import scheme_of

    kind = scheme_of(settings)
    return stored if kind is None else DequantisedCheckpoint(stored, kind(stored, settings))


def dequantised_in(weights: Weights) -> Iterator[DequantisedCheckpoint]:
    """The quantised checkpoints that a model is made of: itself, its base, or what it presents in another layout."""
    if isinstance(weights, DequantisedCheckpoint):
        # A config may say how weights of floats are to be quantised when they are loaded.
        yield from (weights,) if weights.packed else ()
        return
    for name in ("base", "inner", "model"):
        if isinstance(within := getattr(weights, name, None), Weights):
            yield from dequantised_in(within)
    for within in getattr(weights, "experts", ()):
        if isinstance(within, Weights):
            yield from dequantised_in(within)


def _dtype_of(config: Mapping[str, Any] | None) -> str:
    """The safetensors name of the type that a config says the weights have."""
    known = config or {}
    inner = known.get("text_config")
    for said in (known, inner if isinstance(inner, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(kind := said.get(key), str) and kind.removeprefix("torch.") in _DTYPES:
                return _DTYPES[kind.removeprefix("torch.")]
    return _DTYPES[_DEFAULT_DTYPE]
