"""Gradient projection memory: steps are orthogonal to the space that the inputs of earlier tasks span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from genepool import progress
from genepool.seeding import numpy_generator
from genepool.training.continual.memory import Memory
from genepool.training.continual.spaces import ProjectedLayer, extended_basis, input_covariances, linear_layers
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.training.examples import TrainingExample


class GpmOptions(LearnerOptions):
    """Options of `gpm`."""

    energy: float = Field(
        default=0.97, gt=0, le=1, description="The share of the energy of a task's inputs that is kept of each layer."
    )
    rise: float = Field(default=0.003, ge=0, lt=1, description="What that share rises by with every task; at most 1.")
    examples: int = Field(
        default=128, ge=1, description="Training examples of each task that its inputs are read from."
    )


class Gpm(TaskLearner):
    """Of every linear layer `g <- g - g M M^T`, M being an orthonormal basis of the inputs of earlier tasks.

    AdamW scales every entry by itself, which leads out of a space; so what the step moved is projected too. From the
    second task on everything that is no linear layer (norms, biases, embeddings) stays as it is, as the authors' batch
    norms do. Factors are linear layers: both are projected, each by what it is given. A layer whose basis has all
    directions stays as it is too, which is said when a task begins.
    """

    name = "gpm"
    source = "Saha et al., arXiv:2103.09762: energy 0.97 + 0.003 a task as for CIFAR-100; 128 examples are ours"
    when = "no example may be kept, and earlier tasks must not be moved at all"
    Options: ClassVar[type[LearnerOptions]] = GpmOptions
    options: GpmOptions

    def begin_task(self) -> None:
        place = self.place
        self._layers: dict[str, ProjectedLayer] = linear_layers(place)
        self._bases = {
            name: self.memory.tensors[name].to(values.device)
            for name, values in place.values.items()
            if name in self.memory.tensors
        }
        self._before: dict[str, torch.Tensor] = {}
        full = sum(basis.shape[0] == basis.shape[1] for basis in self._bases.values())
        if full:
            named = ", ".join(dict.fromkeys(lesson.task.name for lesson in place.lessons))
            progress.message(
                f"{named}: in {full} of {len(self._bases)} layers the inputs of earlier tasks fill the whole space, so "
                "these layers stay as they are; a lower energy leaves room"
            )

    def after_backward(self) -> None:
        if not self.place.number:
            return
        for name, parameter in self.place.parameters.items():
            if parameter.grad is not None:
                parameter.grad -= self._guarded(name, parameter.grad)
        self._before = {name: values.clone() for name, values in self.place.values.items()}

    def after_step(self) -> None:
        for name, before in self._before.items():
            values = self.place.values[name]
            values -= self._guarded(name, values - before)
        self._before = {}

    def _guarded(self, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """The part of a gradient or of a step that earlier tasks would notice."""
        if name not in self._layers:
            return matrix
        if name not in self._bases:
            return matrix * 0
        return self._layers[name].projected(matrix, self._bases[name].to(matrix.dtype))

    def _read(self) -> list[TrainingExample]:
        """The examples that the inputs of the task are read from."""
        lessons = self.place.lessons
        order = numpy_generator(self.place.seed, "inputs").permutation(len(lessons))[: self.options.examples]
        return [lessons[one] for one in order.tolist()]

    def end_task(self) -> Memory:
        place, ask = self.place, self.options
        covariances = input_covariances(place, self._layers, self._read())
        energy = min(1.0, ask.energy + ask.rise * place.number)
        found = {}
        for name, covariance in covariances.items():
            known = self._bases.get(name)
            found[name] = extended_basis(None if known is None else known.double(), covariance, energy).float()
        return Memory({**self.memory.tensors, **found}, facts=self._told(found))

    def _told(self, bases: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """By layer: the directions that are kept, and those that there are."""
        return {"directions": {name: [basis.shape[1], basis.shape[0]] for name, basis in bases.items()}}
