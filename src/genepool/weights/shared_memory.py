"""Resident weights as plain arrays, so that processes of one machine can read one copy of them.

What an object store of shared memory takes and gives: numpy arrays come back without a copy, read-only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.change import BaseWithChange
from genepool.weights.in_memory import ResidentChange, TensorWeights
from genepool.weights.tensor_info import TensorInfo, dtype_code, torch_dtype
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class SharedWeights:
    """Everything that makes `Weights`, as data.

    Attributes:
        name, folder, config, aliases, stored_names, fingerprint: as in `Weights`.
        tensors: name -> (bytes, shape and type).
        deltas: the same for the changes to the base, None for those known to be zero; None for what is no change.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any] | None
    aliases: Mapping[str, str]
    stored_names: tuple[str, ...]
    fingerprint: str
    tensors: Mapping[str, tuple[np.ndarray, TensorInfo]]
    deltas: Mapping[str, tuple[np.ndarray, TensorInfo] | None] | None = None


def share(weights: Weights, base: Weights | None = None) -> SharedWeights:
    """Resident weights as data.

    Args:
        weights: what to share.
        base: the resident base that its deltas are relative to, for a skill.
    """
    deltas = None
    if base is not None:
        changes = {name: weights.delta(name, base) for name in weights.names()}
        deltas = {name: None if change is None else _bytes(change) for name, change in changes.items()}
    return SharedWeights(
        weights.name,
        weights.folder,
        weights.config,
        dict(weights.aliases()),
        weights.stored_names(),
        weights.fingerprint(),
        {name: _bytes(weights.read(name)) for name in weights.names()},
        deltas,
    )


def shared_weights(parts: SharedWeights, base: Weights | None = None) -> Weights:
    """The weights again, over the same memory.

    Args:
        parts: what `share` gave.
        base: the base, for a skill.
    """
    tensors = {name: _tensor(*held) for name, held in parts.tensors.items()}
    settings: dict[str, Any] = {
        "folder": parts.folder,
        "config": parts.config,
        "aliases": parts.aliases,
        "stored_names": parts.stored_names,
        "fingerprint": parts.fingerprint,
    }
    sums = TensorWeights(tensors, parts.name, **settings)
    if parts.deltas is None or base is None:
        return sums
    deltas = {name: None if held is None else _tensor(*held) for name, held in parts.deltas.items()}
    return BaseWithChange(base, ResidentChange(deltas, base, parts.name), sums=sums)


def _bytes(tensor: torch.Tensor) -> tuple[np.ndarray, TensorInfo]:
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat, TensorInfo(tuple(tensor.shape), dtype_code(tensor.dtype))


def _tensor(data: np.ndarray, info: TensorInfo) -> torch.Tensor:
    import torch

    with warnings.catch_warnings():
        # torch warns of memory that may not be written to; nobody writes into weights.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(data).view(torch_dtype(info.dtype)).reshape(info.shape)
