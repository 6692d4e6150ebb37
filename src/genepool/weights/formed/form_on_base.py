"""A form of adapter on its base, wherever it was read from: genepool's own folder, or PEFT's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError, nearest
from genepool.weights.formed.adapter_form import FormOfAdapter
from genepool.weights.formed.sites import ModelSites
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class FormOnBase(ABC):
    """A form on its base, checked.

    Attributes:
        path: where it was read from.
        base: the model that it stands on.
        form: with its options and tasks.
        sites: the places of the base.
        seed: of what the form draws when it is asked.
    """

    path: Path
    base: Weights
    form: FormOfAdapter
    sites: ModelSites
    seed: int = 0

    @property
    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of the form in float32. Never write into them.

        Raises:
            InputError: one holds NaN or infinity.
        """

    @abstractmethod
    def digest(self) -> str:
        """SHA-256, hex, of what it computes."""

    def task(self, name: str | None) -> int:
        """The number of a task that is named behind `#`; -1 for none.

        Raises:
            InputError: the form has no parts for it.
        """
        if name is None:
            return -1
        if not self.form.by_task:
            raise InputError(
                f"the form {self.form.name} has no parts for tasks", where=self.path, fix=f"Leave '#{name}' out"
            )
        if name not in self.form.tasks:
            raise InputError(f"has no parts for the task '{name}'", where=self.path, fix=nearest(name, self.form.tasks))
        return self.form.tasks.index(name)
