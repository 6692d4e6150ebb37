"""Compositions that have modules for each task beside frozen models: whoever asks says which task it is.

Uses `composition`; unlike those of `known_task` they are no weights.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Self

from genepool.composition.composer import Composer
from genepool.composition.composition import Composition
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError, nearest
from genepool.saved_models import TASK_MARK
from genepool.tasks.models import Model, Source, open_model
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch


class ToldTaskComposition(Composition):
    """Frozen models and a trained module with a part for each task.

    Args:
        composer, skills, record: as for `Composition`.
        module: in float32 and evaluation mode.
        tasks: what it has parts for, in order.
    """

    def __init__(
        self,
        composer: Composer[Any],
        skills: SkillSet,
        record: Mapping[str, Any],
        module: torch.nn.Module,
        tasks: Sequence[str],
    ) -> None:
        super().__init__(composer, skills, record)
        self.module, self.tasks = module, list(tasks)
        self.number: int | None = None

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"tasks": self.tasks}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the whole; for one task, of the whole and its name."""
        whole = super().fingerprint
        if self.number is None:
            return whole
        return hashlib.sha256(f"{whole}{TASK_MARK}{self.tasks[self.number]}".encode()).hexdigest()

    def for_task(self, task: str) -> Self:
        """The composition for one task.

        Raises:
            InputError: it has no part for this task.
        """
        if task not in self.tasks:
            raise InputError(f"has no task '{task}'", where=self.name, fix=nearest(task, self.tasks))
        found = copy.copy(self)
        found.__dict__.pop("fingerprint", None)
        found.number, found.name = self.tasks.index(task), f"{self.name}{TASK_MARK}{task}"
        return found

    def source(self) -> Source:
        if self.number is None:
            self._refuse()
        return super().source()

    def apply(self, network: Network) -> Model:
        if self.number is None:
            self._refuse()
        return self.asked(network, self.number)

    @abstractmethod
    def asked(self, network: Network, number: int) -> Model:
        """The base in memory with the module, to be asked one task.

        Args:
            network: the base, loaded.
            number: of the task.
        """

    def fold(self) -> NoReturn:
        """Refused: modules stand beside the weights."""
        raise InputError(
            "has modules of its own beside the models, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )

    def _refuse(self) -> NoReturn:
        named = [f"{self.name}{TASK_MARK}{name}" for name in self.tasks[:2]]
        raise InputError(
            "answers each task by a part of its own", where=self.name, fix=f"Name the task, as in {' or '.join(named)}"
        )


def kind_of_base(skills: SkillSet, asker: str) -> type[Model]:
    """The kind of model of the base.

    Raises:
        InputError: it gives no classes.
    """
    source = open_model(skills.base)
    if "classes" not in source.kind.can:
        raise InputError(
            f"{asker} needs a classifier, got {source.kind.kind}", where=source.name, fix="Name a base with classes"
        )
    return source.kind
