"""Tensors that live in memory, as `Weights`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.source import Weights
from genepool.weights.tensor_info import TensorInfo, dtype_code

if TYPE_CHECKING:
    import torch


class TensorWeights(Weights):
    """Tensors that are already in memory.

    Args:
        tensors: name -> tensor.
        name: what to call the whole.
        folder, config, aliases: as in `Weights`.
        fingerprint: when it is known without hashing.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        name: str = "tensors",
        *,
        folder: Path | None = None,
        config: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.name, self.folder, self.config = name, folder, config
        self._tensors = dict(tensors)
        self._aliases = dict(aliases or {})
        self._infos = {n: TensorInfo(tuple(t.shape), dtype_code(t.dtype)) for n, t in self._tensors.items()}
        self._fingerprint = fingerprint

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def info(self, name: str) -> TensorInfo:
        return self._infos[self._aliases.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[self._aliases.get(name, name)]

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = super().fingerprint()
        return self._fingerprint


class ResidentChange(TensorWeights):
    """A change on a base, with both the sums and the exact deltas held in memory.

    Args:
        tensors: the sums.
        deltas: the changes in float32; None for those known to be zero.
        base: the resident base they are relative to.
        name, settings: as for `TensorWeights`.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        deltas: Mapping[str, torch.Tensor | None],
        base: Weights,
        name: str,
        **settings: Any,
    ) -> None:
        super().__init__(tensors, name, **settings)
        self._base, self._deltas = base, dict(deltas)
        self._stacks: Mapping[str, torch.Tensor] = {}
        self._place = -1

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        return self._deltas[self._aliases.get(name, name)] if base is self._base else super().delta(name, base)

    def moves(self, name: str, base: Weights) -> bool:
        return base is not self._base or self._deltas[self._aliases.get(name, name)] is not None

    def holds_change(self, base: Weights) -> bool:
        return base is self._base

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        if base is not self._base:
            return super().delta_rows(name, base, start, stop)
        delta = self.delta(name, base)
        return None if delta is None else delta.reshape(self.info(name).matrix)[start:stop]


def stack_changes(changes: Sequence[Weights]) -> None:
    """Lays the deltas of several resident changes beside each other, tensor by tensor, in the memory they take anyway.

    `stacked_changes` then gives all of them at once. Left as they are: tensors that not all of them move, and those
    with NaN or infinity in them.
    """
    import torch

    held = [change for change in changes if isinstance(change, ResidentChange)]
    if len(held) < 2 or len(held) < len(changes):
        return
    stacks: dict[str, torch.Tensor] = {}
    for name in held[0].names():
        deltas = [change._deltas.get(name) for change in held]
        known = [delta for delta in deltas if delta is not None]
        if len(known) < len(held) or not all(
            d.shape == known[0].shape and bool(torch.isfinite(d).all()) for d in known
        ):
            continue
        stacks[name] = torch.stack(known)
        for place, change in enumerate(held):
            change._deltas[name] = stacks[name][place]
    for place, change in enumerate(held):
        change._stacks, change._place = stacks, place


def stacked_changes(sources: Sequence[Weights], name: str, base: Weights) -> torch.Tensor | None:
    """The deltas of these sources from `base`, shape (sources, ...), finite, not to be written into; None where they
    were not stacked in this order."""
    first = sources[0]
    if not isinstance(first, ResidentChange) or first._base is not base:
        return None
    stack = first._stacks.get(first.aliases().get(name, name))
    if stack is None or len(stack) != len(sources):
        return None
    for place, source in enumerate(sources):
        if not isinstance(source, ResidentChange) or source._stacks is not first._stacks or source._place != place:
            return None
    return stack


def load_resident(weights: Weights, base: tuple[Weights, Weights] | None = None) -> Weights:
    """The same weights with every tensor held in memory: what repeated in-memory merging reads from.

    Args:
        weights: what to load.
        base: (the base as opened, the base as resident). Deltas against it are then kept ready too, exact where
            `weights` is a change on that base.
    """
    tensors = {name: weights.read(name).clone() for name in weights.names()}
    settings: dict[str, Any] = {
        "folder": weights.folder,
        "config": weights.config,
        "aliases": weights.aliases(),
        "fingerprint": weights.fingerprint(),
    }
    if base is None:
        return TensorWeights(tensors, weights.name, **settings)
    opened, held = base
    deltas = {name: weights.delta(name, opened) for name in weights.names()}
    return ResidentChange(tensors, deltas, held, weights.name, **settings)
