"""What stands before a head that did not exist: the answer of one who knows how frequent the classes are, and no more.

A base without a head cannot be asked. Instead of no score, or one of a random head, the table shows the most frequent
class of the training examples, example by example, so that what was gained is paired like everywhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from genepool.errors import InputError
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.models import Capability, Input, LoadedSource, Model, Source
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


class ClassPrior(Model):
    """Answers everything alike: each class with its share of the training examples.

    Args:
        classes: the names of the classes.
        answers: those of the training examples.
    """

    kind = "the most frequent class"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes"})

    def __init__(self, classes: Sequence[str], answers: Sequence[str]) -> None:
        counts = Counter(answers)
        self._labels = tuple(classes)
        # One more of each, so that a class without examples has a likelihood.
        total = len(answers) + len(classes)
        self._scores = [math.log((counts[label] + 1) / total) for label in classes]

    @property
    def answer(self) -> str:
        """What it answers."""
        return self._labels[self._scores.index(max(self._scores))]

    @property
    def name(self) -> str:
        return f"{self.kind} of the training examples"

    @property
    def fingerprint(self) -> str:
        text = json.dumps([self._labels, [repr(score) for score in self._scores]], ensure_ascii=False)
        return hashlib.sha256(f"class prior\x1f{text}".encode()).hexdigest()

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`; the prompts are not read."""
        import torch

        return torch.tensor(self._scores).expand(len(prompts), -1)

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """No config describes it."""
        return False

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """Refused: it has no weights."""
        raise InputError("weights are no class prior", where=weights.name, fix="Name the model itself")

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def assign(self, weights: Weights) -> None:
        self._cannot("take weights")

    def changing(self, names: Collection[str]) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        self._cannot("be trained")


class ClassPriorOfImages(ClassPrior):
    """The same, in front of images."""

    reads: ClassVar[Input] = "image"


def class_prior(classes: Sequence[str], answers: Sequence[str], reads: Literal["text", "image"]) -> Source:
    """The most frequent of the classes as something that can be asked.

    Args:
        classes: the names of the classes.
        answers: those of the training examples.
        reads: what the tasks show.
    """
    return LoadedSource((ClassPrior if reads == "text" else ClassPriorOfImages)(classes, answers))
