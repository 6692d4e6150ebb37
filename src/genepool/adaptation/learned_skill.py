"""What a model has become along a stream, as a change of its base: to be stored, merged, compared and taken away again.

Uses weights; `adaptation` and `runner` make skills here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.checked import printable
from genepool.errors import InputError
from genepool.weights import Form, ModelDifference, TensorWeights, Weights, store
from genepool.weights.naming import in_memory_layout

if TYPE_CHECKING:
    import torch


class LearnedChange(ModelDifference):
    """A model less its base, of the tensors that were learned alone: all others are the base's own.

    Args:
        tuned: the model as it became.
        base: as it was.
        learned: names of the tensors.
    """

    def __init__(self, tuned: Weights, base: Weights, learned: Collection[str]) -> None:
        super().__init__(tuned, base)
        self._learned = frozenset(learned)

    def names(self) -> tuple[str, ...]:
        """The tensors that were learned."""
        return tuple(name for name in super().names() if name in self._learned)


def learned_change(base: Weights, tensors: Mapping[str, torch.Tensor], name: str) -> LearnedChange | None:
    """The change of a base.

    Args:
        base: the model as it was.
        tensors: what is another now, by its name in memory.
        name: what the result is called.

    Returns:
        The change; None where nothing changed, or a tensor is no number any more.

    Raises:
        InputError: a tensor has another name or layout in memory than on the disk.
    """
    import torch

    base = in_memory_layout(base)
    known = set(base.names())
    for one in tensors:
        if one not in known:
            raise InputError(
                "has another name or layout in memory, so no skill can be made of it",
                where=f"{base.name}:{one}",
                fix="Keep the state instead, or choose an adapter that trains other tensors",
            )
    now = {one: tensor.detach().cpu().float() for one, tensor in tensors.items()}
    if not _are_numbers(now):
        return None
    if all(torch.equal(tensor, base.read(one).float()) for one, tensor in now.items()):
        return None
    kept = {one: base.read(one) for one in known if one not in now}
    tuned = TensorWeights({**kept, **now}, name, folder=base.folder, config=base.config, aliases=base.aliases())
    return LearnedChange(tuned, base, now)


def why_no_skill(tensors: Mapping[str, torch.Tensor]) -> str:
    """Why `learned_change` gives None for these tensors, as a clause."""
    return "no tensor of the model is another" if _are_numbers(tensors) else "a weight is no number any more"


def _are_numbers(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def write_learned(change: LearnedChange, out: Path, lineage: Mapping[str, Any]) -> Path:
    """Writes the change as a skill file whose lineage says what made it, replacing what is there.

    Args:
        change: of the base.
        out: the file.
        lineage: how it was made.
    """
    words = {"name": printable(f"{lineage['adapter']} on {lineage['stream']['name']}"), "training": dict(lineage)}
    return store(change, out, Form("dense"), "extract", words=words, overwrite=True).path
