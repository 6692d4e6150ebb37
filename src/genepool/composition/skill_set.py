"""A base and the frozen skills that are composed on it, opened and checked; headers only. Uses weights and tasks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genepool import progress
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.merging.vocabulary import check_vocabularies
from genepool.saved_models import folder_and_task
from genepool.tasks.models import Source, WeightsSource, open_model
from genepool.training.folder import RESULTS
from genepool.weights import BaseWithHead, Change, ModelDifference, Weights, open_change, open_weights
from genepool.weights.change import block_rows
from genepool.weights.naming import change_in_memory_layout, in_memory_layout, put_on
from genepool.weights.quantised import refuse_quantised

if TYPE_CHECKING:
    import torch

#: What skills are opened as: changes of the base, or whole models.
Members = Literal["changes", "models"]


@dataclass(frozen=True)
class ComposedSkill:
    """One frozen skill.

    Attributes:
        name: the last part of its path without its ending, which is also the name of its task.
        reference: what the user named.
        source: the base with it, or a whole model, to be asked.
        opened: the change, for composers that compose changes; None for those that compose whole models.
    """

    name: str
    reference: str
    source: Source
    opened: Change | None = None

    @classmethod
    def of_change(cls, name: str, reference: str, change: Change) -> ComposedSkill:
        """A skill that is a change of an open base."""
        return cls(name, reference, open_model(change.applied(name)), change)

    @property
    def change(self) -> Change:
        """What it changes of the base."""
        assert self.opened is not None, f"{self.name} was opened as a whole model"
        return self.opened

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the base with it, or of the whole model."""
        return self.source.fingerprint


@dataclass(frozen=True)
class SkillSet:
    """A base and some skills of it.

    Attributes:
        base: as it was opened, with the head that its skills carry where it has none.
        reference: what the user called the base.
        skills: in the order in which they were named.
    """

    base: Weights
    reference: str
    skills: tuple[ComposedSkill, ...]

    @property
    def names(self) -> list[str]:
        """Of the skills."""
        return [skill.name for skill in self.skills]

    @cached_property
    def memory_base(self) -> Weights:
        """The base under the names and in the shapes of the network in memory."""
        return in_memory_layout(self.base)

    @cached_property
    def memory_changes(self) -> tuple[Change, ...]:
        """The skills' changes in the same layout."""
        return tuple(change_in_memory_layout(skill.change) for skill in self.skills)

    def vectors(self, held: Collection[int] = (), changes: Sequence[Change] | None = None) -> TaskVectors:
        """The task vectors in the layout of the network in memory.

        Args:
            held: the numbers of the skills that are kept in memory.
            changes: what the skills' changes were made into; the changes themselves when None.
        """
        return TaskVectors(self.memory_base, self.memory_changes if changes is None else changes, held)

    def on_base(self, change: Change) -> Change:
        """A change in the layout of memory as a change of the base as it is stored."""
        return change if self.memory_base is self.base else put_on(self.base, change)


def open_skills(
    base: str, skills: Sequence[str], *, members: Members = "changes", allow_pickle: bool = False
) -> SkillSet:
    """Opens a base and skills of it.

    Args:
        base: a folder, a file or a hub model.
        skills: fine-tunes, PEFT adapters or skill files; or whole models.
        members: what the skills are opened as: changes of the base, or whole models, perhaps of another base.
        allow_pickle: also open PyTorch's .bin and .pt files, tensors only.

    Raises:
        InputError: one cannot be opened, is of another base or kind, carries a head that others lack, numbers its
            tokens otherwise, is the base itself, or two have one name.
    """
    opened = open_weights(base, allow_pickle=allow_pickle)
    if members == "changes":
        refuse_quantised(opened, base, "Name the unquantised model that the skills belong to")
    found: list[ComposedSkill] = []
    for reference in skills:
        name = skill_name(reference)
        if name in [other.name for other in found]:
            raise InputError(f"two skills are called '{name}'", where=reference, fix="Rename one of them")
        if members == "changes" and _one_place(reference, base):
            raise InputError("is the base too, so it changes nothing", where=reference, fix="Name the skill's own base")
        found.append(open_skill(name, reference, opened, members, allow_pickle))
    return SkillSet(common_base(opened, found), base, tuple(found))


def open_skill(name: str, reference: str, base: Weights, members: Members, allow_pickle: bool) -> ComposedSkill:
    """Opens one skill.

    Raises:
        InputError: it cannot be opened, is of another base, or is asked with a control prefix.
    """
    if members == "models":
        return ComposedSkill(name, reference, open_model(reference, base=base, allow_pickle=allow_pickle))
    change = open_change(reference, base, allow_pickle=allow_pickle)
    if change.control is not None:
        raise InputError(
            f"is asked with {change.control.words}, which no composition carries",
            where=reference,
            fix="Apply or merge it instead, or teach the skill with another objective",
        )
    return ComposedSkill.of_change(name, reference, change)


def _one_place(reference: str, base: str) -> bool:
    paths = [os.path.realpath(os.path.expanduser(name)) for name in (reference, base)]
    return paths[0] == paths[1] and os.path.exists(paths[0])


def check_finite(skills: SkillSet) -> None:
    """Reads every skill once, before anything is learned from it.

    Raises:
        InputError: one holds NaN or infinity; its file and the tensor are named.
    """
    with progress.bar("checking the skills", len(skills.skills), "skills") as bar:
        for skill in skills.skills:
            bar.note(skill.name)
            if skill.opened is not None:
                shapes = {name: skill.change.matrix(name) for name in skill.change.names()}
                _check_rows(skill, shapes, skill.change.rows)
            elif isinstance(skill.source, WeightsSource):
                weights = skill.source.weights
                infos = {name: weights.info(name) for name in weights.names()}
                shapes = {name: info.matrix for name, info in infos.items() if info.is_float}
                _check_rows(skill, shapes, weights.read_rows)
            bar.advance()


def _check_rows(
    skill: ComposedSkill, shapes: Mapping[str, tuple[int, int]], rows: Callable[[str, int, int], torch.Tensor]
) -> None:
    for name, shape in shapes.items():
        for start, stop in block_rows(*shape):
            block = rows(name, start, stop)
            # A finite sum has finite terms; what overflows is looked at again.
            if not math.isfinite(float(block.sum())) and not bool(block.isfinite().all()):
                raise InputError(
                    "holds NaN or infinity", where=f"{skill.reference}:{name}", fix="Train it again, or leave it out"
                )


def skill_name(reference: str) -> str:
    """What a skill is called: the last part of its path without its ending.

    What `genepool train` calls `adapter`, `form` or `skill.safetensors` has the name of the run's folder. The form of
    one task, `form#sort`, has the name of the task.
    """
    path = Path(os.path.abspath(os.path.expanduser(reference)))
    _, task = folder_and_task(path)
    if task is not None:
        return task
    in_run = path.name in RESULTS and (path.parent / "train.json").is_file()
    return path.parent.name if in_run else path.name.removesuffix(".safetensors").removesuffix(".gguf")


def common_base(base: Weights, skills: Sequence[ComposedSkill]) -> Weights:
    """The base that all changes are relative to: with the head that they carry, where it has none.

    Raises:
        InputError: skills carry different heads, or number their tokens differently.
    """
    changes = [skill.change for skill in skills if skill.opened is not None]
    bases = [change.base or base for change in changes]
    heads = [one.head if isinstance(one, BaseWithHead) else None for one in bases]
    for skill, head in zip(skills, heads, strict=False):
        if head != heads[0]:
            raise InputError(
                f"has another head of classes than {skills[0].reference}, or one of the two has none",
                where=skill.reference,
                fix="Compose skills with one head",
            )
    tuned = {change.name: change.tuned for change in changes if isinstance(change, ModelDifference)}
    fix = "Compose skills that were trained with the base's tokenizer"
    check_vocabularies({base.name: base, **tuned}, "compose", fix)
    return bases[0] if heads and heads[0] is not None else base
