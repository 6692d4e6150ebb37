"""InfLoRA: every task gets factors whose inputs are chosen before it is learned, outside the space of earlier tasks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool import progress
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.continual.memory import Memory
from genepool.training.continual.spaces import ProjectedLayer, extended_basis, input_covariances, linear_layers, without
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.training.examples import TrainingExample
    from genepool.training.opened_training import OpenedTraining


#: The share of the energy of inputs below which a direction holds none of them.
_NOTHING = 1e-9


class InfLoraOptions(LearnerOptions):
    """Options of `inf_lora`."""

    energy: float = Field(
        default=0.98, gt=0, le=1, description="The share of the energy of the first task's inputs that is kept."
    )
    last_energy: float = Field(
        default=1.0, gt=0, le=1, description="The share that it would reach after `horizon` tasks."
    )
    horizon: int = Field(default=10, ge=1, description="Tasks over which the share rises, in a line.")
    examples: int = Field(
        default=128, ge=1, description="Training examples of each task that its inputs are read from."
    )


class InfLora(TaskLearner):
    """Of each task's factors A is fixed, `A = U^T / sqrt(3)`, and B alone is trained.

    U are the first left singular vectors, as many as the rank, of the new task's inputs without their part in the space
    of the inputs of earlier tasks. The space grows as GPM's does. Of a space beyond half of all directions the authors
    keep the complement, which is smaller and says the same; so is done here. Where fewer directions are left than the
    factors have ranks, the others are arbitrary, which is said when the task begins.
    """

    name = "inf_lora"
    source = "Liang and Li, arXiv:2404.00228: 0.98 rising to 1, 1 / sqrt(3) as the authors' code; 128 examples are ours"
    when = "factors are trained, and no example may be kept"
    factors_only = True
    Options: ClassVar[type[LearnerOptions]] = InfLoraOptions
    options: InfLoraOptions

    def check(self, opened: OpenedTraining) -> None:
        from genepool.training.memory import factor_inputs

        rank = opened.recipe.lora.rank
        inputs = factor_inputs(opened)
        if narrow := next((name for name, width in inputs.items() if width < rank), None):
            raise InputError(
                f"got {rank}, and {narrow} has only {inputs[narrow]} inputs, out of whose directions the learner "
                f"{self.name} makes its factors",
                where=opened.recipe.key("lora.rank"),
                fix=f"Set {min(inputs.values())} or less, or use another learner",
            )

    @property
    def fresh_factors(self) -> bool:
        return True

    def begin_task(self) -> None:
        import torch

        place = self.place
        self._layers: dict[str, ProjectedLayer] = {
            name: layer for name, layer in linear_layers(place).items() if "lora_A" in name
        }
        self._fixed: dict[str, torch.Tensor] = {}
        short = 0
        for name, covariance in input_covariances(place, self._layers, self._chosen()).items():
            basis = self._basis(name)
            left = covariance if basis is None else without(covariance, basis.to(covariance.device))
            energies, vectors = (one.flip(-1) for one in torch.linalg.eigh(left))
            values = place.values[name]
            # What rounding leaves of a direction that is taken away is far below this.
            short += int((energies[: len(values)] <= _NOTHING * covariance.diagonal().sum()).any())
            with torch.no_grad():
                values.copy_(vectors[:, : len(values)].T / math.sqrt(3))
                place.parameters[name].copy_(values)
            self._fixed[name] = values.clone()
        if short:
            named = ", ".join(dict.fromkeys(lesson.task.name for lesson in place.lessons))
            progress.message(
                f"{named}: in {short} of {len(self._fixed)} layers its inputs have fewer directions outside of those "
                "of earlier tasks than the factors have ranks; the directions of the others are arbitrary. A smaller "
                "rank or a lower energy helps"
            )

    def _chosen(self) -> list[TrainingExample]:
        lessons = self.place.lessons
        order = numpy_generator(self.place.seed, "inputs").permutation(len(lessons))[: self.options.examples]
        return [lessons[one] for one in order.tolist()]

    def _basis(self, name: str) -> torch.Tensor | None:
        """Of the space of earlier tasks, float64; None at the first task."""
        import torch

        if (kept := self.memory.tensors.get(name)) is None:
            return None
        if name not in self.memory.facts.get("complements", []):
            return kept.double()
        # The eigenvectors of the projection onto the complement that belong to 0.
        inside = kept.double()
        found: torch.Tensor = torch.linalg.eigh(inside @ inside.T)[1][:, : len(inside) - inside.shape[1]]
        return found

    def after_backward(self) -> None:
        for name in self._fixed:
            self.place.parameters[name].grad = None

    def after_step(self) -> None:
        # Weight decay moves what has no gradient too.
        for name, fixed in self._fixed.items():
            self.place.values[name].copy_(fixed)

    def end_task(self) -> Memory:
        import torch

        ask = self.options
        part = min(1.0, self.place.number / ask.horizon)
        energy = ask.energy + (ask.last_energy - ask.energy) * part
        found, complements = {}, []
        for name, covariance in input_covariances(self.place, self._layers, self._chosen()).items():
            known = self._basis(name)
            basis = extended_basis(None if known is None else known.to(covariance.device), covariance, energy)
            if 2 * basis.shape[1] > len(basis):
                complements.append(name)
                basis = torch.linalg.eigh(basis @ basis.T)[1][:, : len(basis) - basis.shape[1]]
            found[name] = basis.float()
        return Memory(found, facts={"complements": complements})
