"""EMR-merging: one elected change for all tasks, and for each task which entries of it count and by how much."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from genepool import progress
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.known_task import KnownTaskComposition
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.composition.world import World
from genepool.weights import Change, Weights
from genepool.weights.change import block_rows

if TYPE_CHECKING:
    import torch


class EmrOptions(ComposerOptions):
    """Options of EMR-merging."""

    rescale: Literal["vector", "tensors"] = Field(
        default="vector",
        description="What a task's factor compares: magnitudes summed over the whole vector (the authors' code for "
        "text), or the sum of each tensor's mean (their code for images).",
    )


@register(
    "emr",
    source="Huang et al., EMR-Merging, arXiv:2405.17461",
    when="It is known which task is asked, and the skills should share one change; no data.",
    needs="nothing",
    out="module",
    cost="one pass over the skills",
)
class Emr(Composer[EmrOptions]):
    """`t = g max_i |t_i|` over the t_i of sign g, the sign of `sum_i t_i`; task i has `th0 + l_i m_i t`.

    The mask m_i keeps the entries where t_i has the elected sign, and `l_i = sum |t_i| / sum |m_i t|` gives the task
    back its magnitude. The model of a task is named `FOLDER#TASK`.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        return plan_kept(skills, 0, network=False, dtype=dtype)

    def fit(self, world: World) -> Composition:
        factors = rescale_factors(world.skills.vectors(), self.options.rescale)
        return EmrComposition(self, world.skills, {}, factors)

    def restore(self, saved: Saved) -> Composition:
        factors = saved.tensor("rescale", (len(saved.skills.skills),))
        return EmrComposition(self, saved.skills, saved.record, factors)


class EmrComposition(KnownTaskComposition):
    """The skills, and each task's factor; masks and the elected change are computed from the skills.

    Args:
        composer, skills, record: as for `Composition`.
        factors: shape (skills,).
    """

    def __init__(self, composer: Emr, skills: SkillSet, record: Mapping[str, Any], factors: torch.Tensor) -> None:
        super().__init__(composer, skills, record)
        self.factors = factors.detach().float().cpu()
        self._vectors = skills.vectors()

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"rescale": self.factors}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        return {"skills": self.skills.names}

    def change_of(self, number: int) -> Change:
        identities = [self.fingerprint, self.skills.skills[number].fingerprint]
        return EmrChange(self._vectors, number, float(self.factors[number]), self.name, json.dumps(identities))


class EmrChange(Change):
    """The change of one task: the elected entries of its skill's sign, times its factor.

    Args:
        vectors: the skills.
        number: of the skill.
        factor: of the task.
        name: what the user calls it.
        identity: what decides it, as text.
    """

    kind: ClassVar[str] = "emr"
    base: Weights

    def __init__(self, vectors: TaskVectors, number: int, factor: float, name: str, identity: str) -> None:
        self._vectors, self._number, self._factor, self._identity = vectors, number, factor, identity
        self.name, self.base = name, vectors.base

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._vectors.names if self._number in self._vectors.holders(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        block = self._vectors.block(name, start, stop)
        place = self._vectors.holders(name).index(self._number)
        return masked(block, elected(block))[place] * self._factor

    def digest(self) -> str:
        return hashlib.sha256(self._identity.encode()).hexdigest()


def elected(block: torch.Tensor) -> torch.Tensor:
    """The elected change of some rows, `(rows, columns)`, of the skills' changes `(skills, rows, columns)`.

    The sign is that of the sum, the magnitude the largest of that sign; zero where the sum is.
    """
    sign = block.sum(0).sign()
    return (block * sign).amax(0).clamp_min(0) * sign


def masked(block: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """What of an elected change each skill keeps, `(skills, rows, columns)`: the entries of its own sign."""
    return chosen.where(block * chosen.sign() > 0, 0.0)


def rescale_factors(vectors: TaskVectors, by: Literal["vector", "tensors"]) -> torch.Tensor:
    """The factor of every task, shape (skills,), float64; 1 for a skill that changes nothing.

    Args:
        vectors: the skills.
        by: see `EmrOptions`.
    """
    import torch

    whole = torch.zeros(len(vectors.changes), dtype=torch.float64)
    kept = torch.zeros_like(whole)
    with progress.bar("electing", len(vectors.names), "tensors") as bar:
        for name in vectors.names:
            rows, columns = vectors.matrix(name)
            share = 1 / (rows * columns) if by == "tensors" else 1.0
            holders = vectors.holders(name)
            for start, stop in block_rows(rows, columns):
                block = vectors.block(name, start, stop)
                whole[holders] += block.abs().double().sum((1, 2)) * share
                kept[holders] += masked(block, elected(block)).abs().double().sum((1, 2)) * share
            bar.advance()
    return (whole / kept).where(kept > 0, 1.0)
