"""What a fit holds in memory: planned from headers before anything is loaded, so that nothing is killed half way.

The network, and the gradient of one tensor at a time, are always there. Skills are held as far as they fit; the others
are read from the disk in every step. Uses `vectors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import held_bytes
from genepool.errors import InputError, listed
from genepool.kernels.memory import free_memory
from genepool.tasks.models import Source, WeightsSource, open_model
from genepool.weights import Change
from genepool.weights.change import BLOCK_ENTRIES
from genepool.weights.tensor_info import DTYPE_BYTES, DTYPE_NAMES

# Of what is free; the rest is for activations, the tokenizer, Python and the disk's cache.
_SHARE = 0.75
_BYTES = {name: DTYPE_BYTES[code] for code, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Residence:
    """What a fit holds, in bytes; activations come on top.

    Attributes:
        network: the base in memory.
        gradient: of the largest tensor, or of all tensors where they are added up.
        blocks: some rows of every skill, while they are worked on.
        skills: by name, what each that is held takes.
        streamed: names of the skills that are read from the disk.
        add_up: whether the gradients of the micro-batches of a step are added up before the vectors are read.
        free: bytes that were free, of which a quarter is left alone.
    """

    network: int
    gradient: int
    blocks: int
    skills: Mapping[str, int]
    streamed: tuple[str, ...]
    add_up: bool
    free: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.network + self.gradient + self.blocks + sum(self.skills.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "network_bytes": self.network,
            "gradient_bytes": self.gradient,
            "block_bytes": self.blocks,
            "skill_bytes": dict(self.skills),
            "streamed": list(self.streamed),
            "total_bytes": self.total,
            "free_bytes": self.free,
        }

    def text(self) -> str:
        """One line for people."""
        read = f"; read from the disk in every step: {listed(self.streamed)}" if self.streamed else ""
        return f"memory: {self.total / 1e9:.2f} GB beside the activations, {len(self.skills)} skills held{read}"


def plan_models(
    skills: SkillSet, others: Sequence[str] = (), *, dtype: str = "float32", free: int | None = None
) -> Residence:
    """What a composition of whole models holds: all of them, side by side; headers alone are read.

    Args:
        skills: the base and the models.
        others: further models, as the user named them.
        dtype: what the networks compute in.
        free: bytes; those of this machine when None.

    Raises:
        InputError: the models do not fit; with the figures.
    """
    free = free_memory() if free is None else free
    beside = [open_model(skills.base), *map(open_model, others)]
    network = sum(_model_bytes(source, dtype) for source in beside)
    held = {skill.name: _model_bytes(skill.source, dtype) for skill in skills.skills}
    found = Residence(network, 0, 0, held, (), False, free)
    if found.total > _SHARE * free:
        raise InputError(
            f"the models take {found.total / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free, of which {_SHARE:.0%} can "
            "be used",
            where=skills.reference,
            fix="Compute in two bytes (--dtype bfloat16), or use a machine with more memory",
        )
    return found


def _model_bytes(source: Source, dtype: str) -> int:
    if not isinstance(source, WeightsSource):
        return 0
    return sum(source.weights.info(name).numel for name in source.weights.names()) * _BYTES[dtype]


def plan_residence(
    skills: SkillSet, *, dtype: str = "float32", changes: Sequence[Change] | None = None, free: int | None = None
) -> Residence:
    """Decides which skills a fit holds, from headers alone.

    Args:
        skills: the base and the skills.
        dtype: what the network computes in.
        changes: what the skills' changes were made into; the changes themselves when None.
        free: bytes; those of this machine when None.

    Raises:
        InputError: not even the network and one gradient fit; with the figures.
    """
    free = free_memory() if free is None else free
    base, size = skills.memory_base, _BYTES[dtype]
    changes = skills.memory_changes if changes is None else changes
    network = sum(base.info(name).numel for name in base.names()) * size
    moved = skills.vectors(changes=changes).names
    sizes = [base.info(name).numel * size for name in moved]
    # A block of every skill, once more in the type that is computed in, and their sum.
    blocks = 4 * BLOCK_ENTRIES * (2 * len(changes) + 2)
    left = _SHARE * free - network - max(sizes, default=0) - blocks
    if left < 0:
        needed = network + max(sizes, default=0) + blocks
        raise InputError(
            f"the network and one gradient take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free, of which "
            f"{_SHARE:.0%} can be used",
            where=skills.reference,
            fix="Compute in two bytes (--dtype bfloat16), or use a machine with more memory",
        )
    held: dict[str, int] = {}
    for name, change in zip(skills.names, changes, strict=True):
        takes = held_bytes(change, base)
        if sum(held.values()) + takes <= left:
            held[name] = takes
    streamed = tuple(name for name in skills.names if name not in held)
    rest = left - sum(held.values())
    # Where all gradients fit, vectors are read once a step, and not once for each micro-batch.
    add_up = sum(sizes) <= rest
    gradient = sum(sizes) if add_up else max(sizes, default=0)
    return Residence(network, gradient, blocks, held, streamed, add_up, free)
