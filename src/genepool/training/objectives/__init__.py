"""What a training step minimises: one file of this folder each, found by being there.

An objective turns a model and a batch into one loss per target: a token of an answer, or a class. It knows nothing of
parameters, steps or files; the loop (`genepool.training.fit`) adds the losses up.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from genepool.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Teacher(Protocol):
    """Whose predictions a model is compared with: another model, or what models predicted before."""

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """What it predicts for every target of a batch; see `Model.answer_logits`."""


class Objective(ABC):
    """A loss on the places of a batch where answers stand.

    Attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        needs_teacher: whether it compares with another model's predictions.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs_teacher: ClassVar[bool] = False

    @abstractmethod
    def losses(self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None) -> torch.Tensor:
        """The loss of every target of a batch, shape (targets,), float32, with gradients where they are on.

        Args:
            model: the one that is trained.
            batch: examples and their targets, tokens or classes: `batch.owners` says whose each is.
            teacher: whose predictions it compares with, for objectives that need one.
        """


def objectives() -> dict[str, Objective]:
    """Every objective by name."""
    found: dict[str, Objective] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Objective) and value.__module__ == loaded.__name__:
                found[value.name] = value()
    return dict(sorted(found.items()))


def find_objective(name: str, where: str = "--objective") -> Objective:
    """The objective of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = objectives()
    if name not in known:
        raise InputError(f"there is no objective '{name}'", where=where, fix=nearest(name, known))
    return known[name]
