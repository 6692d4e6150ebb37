"""What a fit holds in memory: planned from headers before anything is loaded, so that nothing is killed half way.

The network, and the gradient of one tensor at a time, are always there. Skills are held as far as they fit; the others
are read from the disk in every step. It is also decided here which way gradients of coefficients are taken. Uses
`vectors` and `branches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genepool.composition.branches import factor_bytes, why_no_branches
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import block_bytes, held_bytes
from genepool.errors import InputError, listed
from genepool.kernels.memory import free_memory
from genepool.tasks.models import Source, WeightsSource, open_model
from genepool.weights import Change
from genepool.weights.change import BLOCK_ENTRIES
from genepool.weights.tensor_info import DTYPE_BYTES, DTYPE_NAMES
from genepool.weights.ties import tied_names

# Of what is free; the rest is for activations, the tokenizer, Python and the disk's cache.
_SHARE = 0.75
_BYTES = {name: DTYPE_BYTES[code] for code, name in DTYPE_NAMES.items()}


#: How the gradient of coefficients is taken: through LoRA skills that run beside the base; tensor by tensor, each of
#: which moves in the backward pass; or of all tensors before any moves.
Way = Literal["branches", "fused", "whole"]
_SAID: dict[Way, str] = {
    "branches": "LoRA skills run beside the base, and no gradient of a weight is formed",
    "fused": "each tensor moves as soon as its gradient is there",
    "whole": "tensors move when all gradients are there",
}


@dataclass(frozen=True)
class Residence:
    """What a fit holds, in bytes; activations come on top.

    Attributes:
        network: the base in memory.
        gradient: of the largest tensor, which a tied one has twice, and of all tensors where they are added up.
        blocks: what of every skill is worked on at once.
        skills: by name, what each that is held takes.
        streamed: names of the skills that are read from the disk.
        add_up: whether the gradients of the micro-batches of a step are added up before the vectors are read.
        free: bytes that were free, of which a quarter is left alone.
        way: how gradients are taken; None where there are none.
        why: why skills that hold factors do not run beside the base; empty where they do, or hold none.
        at_hand: of `blocks`, what a tensor's vectors may take between its gradient and its move.
        kept: what is kept of the skills: statistics, or factors.
    """

    network: int
    gradient: int
    blocks: int
    skills: Mapping[str, int]
    streamed: tuple[str, ...]
    add_up: bool
    free: int
    way: Way | None = None
    why: str = ""
    at_hand: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.network + self.gradient + self.blocks + sum(self.skills.values()) + self.kept

    def decisions(self) -> dict[str, Any]:
        """What rounding depends on: bfloat16 skills are rounded when they are held, and sums have an order."""
        return {"held": sorted(self.skills), "add_up": self.add_up}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "network_bytes": self.network,
            "gradient_bytes": self.gradient,
            "block_bytes": self.blocks,
            "skill_bytes": dict(self.skills),
            "streamed": list(self.streamed),
            "kept_bytes": self.kept,
            "total_bytes": self.total,
            "peak_bytes": self.total,
            "free_bytes": self.free,
            "way": self.way,
            "why": self.why or None,
        }

    def how(self) -> str:
        """How gradients are taken, and why not beside the base, in a clause; empty where there are none."""
        said = "" if self.way is None else _SAID[self.way]
        return f"{said}; the factors are multiplied out, because {self.why}" if said and self.why else said

    def text(self) -> str:
        """One line for people."""
        read = f"; read from the disk in every step: {listed(self.streamed)}" if self.streamed else ""
        return f"memory: {self.total / 1e9:.2f} GB beside the activations, {len(self.skills)} skills held{read}" + (
            f"; {self.how()}" if self.way else ""
        )


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


def plan_kept(
    skills: SkillSet,
    kept: int,
    *,
    network: bool = True,
    gradient: bool = False,
    dtype: str = "float32",
    free: int | None = None,
) -> Residence:
    """What a composer holds that reads each skill from the disk and keeps something of it.

    Args:
        skills: the base and the skills.
        kept: bytes of what is kept.
        network: the base is loaded.
        gradient: gradients are taken, of one tensor at a time.
        dtype: what the network computes in.
        free: bytes; those of this machine when None.

    Raises:
        InputError: it does not fit; with the figures.
    """
    free = free_memory() if free is None else free
    base, size = skills.memory_base, _BYTES[dtype]
    loaded = sum(base.info(name).numel for name in base.names()) * size if network else 0
    largest = max((base.info(name).numel for name in skills.vectors().names), default=0) * size if gradient else 0
    blocks = 4 * BLOCK_ENTRIES * (2 * len(skills.skills) + 2)
    found = Residence(loaded, largest, blocks, {}, (), False, free, kept=kept)
    if found.total > _SHARE * free:
        raise InputError(
            f"the network takes {loaded / 1e9:.2f} GB and what is kept of the skills {kept / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free, of which {_SHARE:.0%} can be used",
            where=skills.reference,
            fix="Compose fewer skills at once, or use a machine with more memory",
        )
    return found


def _model_bytes(source: Source, dtype: str) -> int:
    if not isinstance(source, WeightsSource):
        return 0
    return sum(source.weights.info(name).numel for name in source.weights.names()) * _BYTES[dtype]


def plan_residence(
    skills: SkillSet,
    *,
    dtype: str = "float32",
    changes: Sequence[Change] | None = None,
    free: int | None = None,
    way: Way | None = None,
    beside: bool = False,
    before: Mapping[str, Any] | None = None,
) -> Residence:
    """Decides which skills a fit holds, and how it takes gradients, from headers and factors alone.

    Args:
        skills: the base and the skills.
        dtype: what the network computes in.
        changes: what the skills' changes were made into; the changes themselves when None.
        free: bytes; those of this machine when None.
        way: how gradients are taken where skills do not run beside the base; None where none are taken.
        beside: whether the coefficients are such that LoRA skills may run beside the base.
        before: what an earlier plan of the same fit decided (`Residence.decisions`), which its bits depend on.

    Raises:
        InputError: not even the network and one gradient fit, or not what was decided before; with the figures.
    """
    free = free_memory() if free is None else free
    base, size = skills.memory_base, _BYTES[dtype]
    changes = skills.memory_changes if changes is None else changes
    network = sum(base.info(name).numel for name in base.names()) * size
    vectors = skills.vectors(changes=changes)
    sizes = [base.info(name).numel * size for name in vectors.names]
    largest = max(sizes, default=0)
    # A tied tensor has two gradients before they are one.
    one = largest * (2 if skills.base.aliases() or tied_names(skills.base) else 1)
    # A block of every skill, once more in the type that is computed in, and their sum.
    blocks = 4 * BLOCK_ENTRIES * (2 * len(changes) + 2)
    left = _SHARE * free - network - one - blocks
    if left < 0:
        needed = network + one + blocks
        raise InputError(
            f"the network and one gradient take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free, of which "
            f"{_SHARE:.0%} can be used",
            where=skills.reference,
            fix="Compute in two bytes (--dtype bfloat16), or use a machine with more memory",
        )
    why = ""
    if factors := factor_bytes(skills, changes) if beside else {}:
        why = why_no_branches(skills, changes)
        if not why and sum(factors.values()) <= left:
            return Residence(network, one, blocks, factors, (), False, free, "branches")
        why = why or "they do not fit into memory"
    at_hand = 0
    if way == "fused":
        # At most the largest tensor, however many skills there are, so that a step stays below one of training, which
        # holds all gradients: what takes more is read again, from the disk's cache.
        taken = (block_bytes(vectors, name) for name in vectors.names)
        at_hand = max((one for one in taken if one <= 4 * largest // size), default=0)
        at_hand = at_hand if at_hand <= left else 0
        left -= at_hand
    wanted = {name: held_bytes(change, base) for name, change in zip(skills.names, changes, strict=True)}
    # Where all gradients fit, vectors are read once a step, and not once for each micro-batch; that comes before
    # holding some of them, unless all can be held.
    further = sum(sizes)
    room = left if sum(wanted.values()) <= left or further > left else left - further
    held: dict[str, int] = {}
    for name, takes in wanted.items():
        if sum(held.values()) + takes <= room:
            held[name] = takes
    add_up = sum(held.values()) + further <= left
    if before:
        held = {name: takes for name, takes in wanted.items() if name in before.get("held", ())}
        add_up = before.get("add_up") is True
    streamed = tuple(name for name in skills.names if name not in held)
    gradient = one + (further if add_up else 0)
    found = Residence(network, gradient, blocks + at_hand, held, streamed, add_up, free, way, why, at_hand)
    if before and found.total > free:
        raise InputError(
            f"the fit began with {found.total / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free now",
            where=skills.reference,
            fix="Free memory, or write to another folder: the fit begins again",
        )
    return found
