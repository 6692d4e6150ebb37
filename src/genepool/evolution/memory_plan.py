"""What of a study stays in memory: planned from headers before anything is loaded, so that nothing is killed half way.

Every worker holds one model to evaluate with; beside it the base and as many skills as fit, with their changes ready.
What does not fit is read from the disk for every candidate, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.evolution.generation import looks
from genepool.kernels.memory import free_memory

if TYPE_CHECKING:
    from genepool.evolution.opened_study import OpenedStudy

# Of what is free; the rest is for activations, the tokenizer, Python and the disk's cache.
_SHARE = 0.75
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class MemoryPlan:
    """What one worker holds, in bytes.

    Attributes:
        model: the model that candidates are put into.
        base: the base; 0 when it is streamed.
        skills: by name, what each that stays in memory takes.
        streamed: names of the skills (and "base") that are read from the disk for every candidate.
        children: at most, of what was bred, of directions it moves along and of what is learning.
        workers: how many of these there are.
        free: bytes that were free, of which a quarter is left alone.
    """

    model: int
    base: int
    skills: Mapping[str, int]
    streamed: tuple[str, ...]
    children: int
    workers: int
    free: int

    @property
    def total(self) -> int:
        """Bytes of one worker."""
        return self.model + self.base + sum(self.skills.values()) + self.children

    @property
    def fits(self) -> bool:
        """Whether all workers fit."""
        return self.workers * self.total <= _SHARE * self.free

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "model_bytes": self.model,
            "base_bytes": self.base,
            "skill_bytes": dict(self.skills),
            "streamed": list(self.streamed),
            "children_bytes": self.children,
            "worker_bytes": self.total,
            "workers": self.workers,
            "free_bytes": self.free,
            "fits": self.fits,
        }

    def check(self, where: str, compute: str) -> None:
        """Refuses what cannot fit.

        Raises:
            InputError: with the figures and the way out.
        """
        if self.fits:
            return
        ways = ["fewer --workers"] if self.workers > 1 else []
        ways += ["`compute: bfloat16`"] if compute == "float32" else []
        raise InputError(
            f"{self.workers} worker{'s' if self.workers > 1 else ''} of {self.total / 1e9:.1f} GB each do not fit: "
            f"{self.free / 1e9:.1f} GB are free, of which {_SHARE:.0%} can be used",
            where=where,
            fix=f"Take {' or '.join(ways)}" if ways else "Use a machine with more memory, or a smaller base",
        )


def plan_memory(opened: OpenedStudy, workers: int, free: int | None = None) -> MemoryPlan:
    """Decides what stays in memory, from headers alone.

    Args:
        opened: the study.
        workers: processes that evaluate.
        free: bytes; those of this machine when None.
    """
    free = free_memory() if free is None else free
    study = opened.study
    base = opened.sources[study.reference]
    model = sum(base.info(name).numel for name in base.names()) * _BYTES[study.compute]
    held = opened.representation.held(_SHARE * free / workers - model)
    return MemoryPlan(model, held.base, held.skills, held.streamed, held.children, workers, free)


def asked_per_candidate(opened: OpenedStudy, population: int) -> float:
    """Examples per task that a candidate answers on average, with the race that the study has."""
    race, whole = opened.study.race, opened.examples
    if race is None or race.kind != "halving" or population < 2:
        return float(whole)
    running, before, asked = population, 0, 0
    for size in looks(whole, race.first):
        asked += running * (size - before)
        before = size
        running = max(1, -int(-race.keep * running // 1))
    return (asked + running * (whole - before)) / population
