"""Compositions that answer each task by weights of their own: whoever asks says which task it is.

Saved as a folder; `FOLDER#TASK` names the model of one task wherever a model is named. Uses `composition`.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from genepool.composition.composition import Composition
from genepool.errors import InputError, nearest
from genepool.saved_models import TASK_MARK
from genepool.tasks.models import Model, Source, WeightsSource
from genepool.tasks.network import Network
from genepool.weights import Change

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from genepool.composition.peft_export import PeftExport


class KnownTaskComposition(Composition):
    """Frozen skills, of which the one that a task belongs to decides the weights."""

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks that it has weights for: those of the skills, unless it is said otherwise."""
        return self.skills.names

    def identity_of(self, number: int) -> str:
        """What tells the model of a task from the others: the hash of its skill, unless it is said otherwise."""
        return self.skills.skills[number].fingerprint

    @abstractmethod
    def change_of(self, number: int) -> Change:
        """What the base becomes for a task, in the layout of memory.

        Args:
            number: of the task; of the skill where tasks are those of the skills.
        """

    def for_task(self, task: str) -> Composition:
        """The composition for one task.

        Raises:
            InputError: there is no such task.
        """
        names = list(self.tasks)
        if task not in names:
            raise InputError(f"has no task '{task}'", where=self.name, fix=nearest(task, names))
        return TaskMember(self, names.index(task))

    def apply(self, network: Network) -> Model:
        self._refuse()

    def fold(self) -> Change:
        self._refuse()

    def _refuse(self) -> NoReturn:
        names = [f"{self.name}{TASK_MARK}{name}" for name in self.tasks[:2]]
        raise InputError(
            "answers each task by weights of its own", where=self.name, fix=f"Name the task, as in {' or '.join(names)}"
        )


class TaskMember(Composition):
    """The model of one task.

    Args:
        whole: the composition.
        number: of the task.
    """

    def __init__(self, whole: KnownTaskComposition, number: int) -> None:
        name = f"{whole.name}{TASK_MARK}{whole.tasks[number]}"
        super().__init__(whole.composer, whole.skills, whole.record, name)
        self._whole, self._number = whole, number

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the whole and what the task is known by: each task has another model."""
        own = self._whole.identity_of(self._number)
        return hashlib.sha256(f"{self._whole.fingerprint}{TASK_MARK}{own}".encode()).hexdigest()

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._whole.tensors

    def apply(self, network: Network) -> Model:
        network.assign(self.fold().applied(self.name))
        return network

    def fold(self) -> Change:
        return self.skills.on_base(self._whole.change_of(self._number))

    def source(self) -> Source:
        return WeightsSource(self.fold().applied(self.name))

    def write_peft(self, folder: Path) -> PeftExport:
        from genepool.composition.peft_export import write_fold

        return write_fold(self, folder)
