"""Tensors that live in memory, as `Weights`, and changes that do: what repeated merging in memory reads from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.change import BaseWithChange, Change
from genepool.weights.tensor_info import TensorInfo, dtype_code
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class TensorWeights(Weights):
    """Tensors that are already in memory.

    Args:
        tensors: name -> tensor.
        name: what to call the whole.
        folder, config, aliases: as in `Weights`.
        stored_names: as in `Weights`; the tensors' own when None.
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
        stored_names: Sequence[str] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.name, self.folder, self.config = name, folder, config
        self._tensors = dict(tensors)
        self._aliases = dict(aliases or {})
        self._stored_names = tuple(self._tensors if stored_names is None else stored_names)
        self._infos = {n: TensorInfo(tuple(t.shape), dtype_code(t.dtype)) for n, t in self._tensors.items()}
        self._fingerprint = fingerprint

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def stored_names(self) -> tuple[str, ...]:
        return self._stored_names

    def info(self, name: str) -> TensorInfo:
        return self._infos[self._aliases.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[self._aliases.get(name, name)]

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = super().fingerprint()
        return self._fingerprint


class ResidentChange(Change):
    """A change whose tensors are in memory, in float32, as they are.

    Args:
        deltas: tensor -> its change; None for those known to be zero.
        base: the resident base they are relative to.
        name: what the user calls it.
    """

    base: Weights

    def __init__(self, deltas: Mapping[str, torch.Tensor | None], base: Weights, name: str) -> None:
        self.base, self.name = base, name
        self._deltas = {tensor: delta for tensor, delta in deltas.items() if delta is not None}
        self._stacks: Mapping[str, torch.Tensor] = {}
        self._place = -1

    def names(self) -> tuple[str, ...]:
        return tuple(self._deltas)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._deltas[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._deltas[name].reshape(self.matrix(name))[start:stop]

    def stack(self, others: Sequence[ResidentChange | None], name: str) -> torch.Tensor | None:
        """The deltas of this change and the others, as `stack_changes` laid them; None where it did not, or not so."""
        stack = self._stacks.get(name)
        if stack is None or self._place != 0 or len(stack) != 1 + len(others):
            return None
        for place, other in enumerate(others, 1):
            if other is None or other._stacks is not self._stacks or other._place != place:
                return None
        return stack


def stack_changes(changes: Sequence[Weights]) -> None:
    """Lays the deltas of several resident changes beside each other, tensor by tensor, in the memory they take anyway.

    `stacked_changes` then gives all of them at once. Left as they are: tensors that not all of them move, and those
    with NaN or infinity in them.
    """
    import torch

    held = [change for weights in changes if (change := _resident(weights)) is not None]
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
        for delta, change in zip(stacks[name], held, strict=True):
            change._deltas[name] = delta
    for place, change in enumerate(held):
        change._stacks, change._place = stacks, place


def stacked_changes(sources: Sequence[Weights], name: str, base: Weights) -> torch.Tensor | None:
    """The deltas of these sources from `base`, shape (sources, ...), finite; never write into them.

    None where they were not stacked in this order.
    """
    first, *others = sources
    change = _resident(first)
    if change is None or change.base is not base:
        return None
    return change.stack([_resident(other) for other in others], first.aliases().get(name, name))


def _resident(weights: Weights) -> ResidentChange | None:
    found = weights.change if isinstance(weights, BaseWithChange) else None
    return found if isinstance(found, ResidentChange) else None


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
        "stored_names": weights.stored_names(),
        "fingerprint": weights.fingerprint(),
    }
    sums = TensorWeights(tensors, weights.name, **settings)
    if base is None:
        return sums
    opened, held = base
    deltas = {name: weights.delta(name, opened) for name in weights.names()}
    return BaseWithChange(held, ResidentChange(deltas, held, weights.name), sums=sums)
