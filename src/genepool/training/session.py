"""A model in training: what one step computes, and how a state is judged. Knows no folder and no record.

Everything a step does belongs to (seed, step): its examples, and what dropout leaves out. Uses a trainer, the lessons,
and the trained part of a model; `run` makes it durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from genepool.errors import InputError, one_line
from genepool.tasks import LanguageModel
from genepool.training.averaging import AveragingOptimiser
from genepool.training.batches import answer_likelihoods, encode_examples
from genepool.training.examples import TrainingExample, TrainingExamples
from genepool.training.journal import ExampleRow
from genepool.training.optimiser import Optimisation, Optimiser
from genepool.training.trained import Reference
from genepool.training.trained_part import trained_part
from genepool.training.trainers import Trainer, TrainerInputs, trainer_for

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.network import Network
    from genepool.training.recipe import Training
    from genepool.weights import Weights


# Examples that a form begins with, where it looks at what layers read: those of CorDA's scripts.
_ASKED = 256
# Examples on which packing is tried; how near likelihoods must be, in float32 and in types of two bytes.
_TRIED, _ALIKE, _ALIKE_IN_TWO_BYTES = 8, 1e-4, 0.05


class Session:
    """A base in memory, its trained part, and the lessons.

    Args:
        recipe: the training.
        model: the base, loaded; changed in place.
        base: what it was loaded from.
        lessons: what it learns from.
        teacher: the model whose predictions the objective compares with, for those that need one.
        make_trainer: makes what computes its steps; the objective's own trainer by default.
        make_optimiser: makes what takes them, of everything that is trained; AdamW by default.

    Attributes:
        trained: the part that is trained.
        optimiser: of its parameters, and of what the trainer trains beside them.
        trainer: computes its steps.
        rows: the examples or samples of the last step, each with its loss.
        speed: examples a second, over the whole session.
    """

    def __init__(
        self,
        recipe: Training,
        model: Network,
        base: Weights,
        lessons: TrainingExamples,
        teacher: Model | None = None,
        *,
        make_trainer: Callable[[TrainerInputs], Trainer] = trainer_for,
        make_optimiser: Callable[[dict[str, torch.nn.Parameter], Optimisation], Optimiser] | None = None,
    ) -> None:
        self.model = model
        objective = recipe.made_objective()
        self._lessons, self._iterations = lessons, getattr(objective.options, "iterations", 1)
        lessons.restart()
        if recipe.pack:
            check_packing(model, lessons.train[:_TRIED])
        self.trained = trained_part(model, base, recipe, [task.name for task in lessons.tasks], self._ask(lessons))
        if objective.needs_reference:
            self.trained.remember()
        settings = Optimisation(
            recipe.steps,
            recipe.learning_rate or objective.rate * self.trained.learning_rate(),
            round(recipe.warmup * recipe.steps),
            recipe.schedule,
            weight_decay=recipe.weight_decay,
            clip=recipe.clip,
        )
        self.rows: list[ExampleRow] = []
        self.trainer = make_trainer(TrainerInputs(recipe, model, lessons, objective, teacher, Reference(self.trained)))
        own, beside = self.trained.parameters(), self.trainer.parameters()
        self.optimiser: Optimiser
        if make_optimiser is not None:
            self.optimiser = make_optimiser({**own, **beside}, settings)
        elif recipe.average is None:
            self.optimiser = Optimiser({**own, **beside}, settings, self.trainer.rates())
        else:
            self.optimiser = AveragingOptimiser({**own, **beside}, settings, recipe.average, own, self.trainer.rates())
        self._seconds, self._seen = 0.0, 0
        if recipe.activation_checkpoints:
            _checkpoint_activations(model)

    def _ask(self, lessons: TrainingExamples) -> Callable[[int | None], float]:
        """Asks the model its first training examples, each alone, so that no padding is read; their mean loss."""

        def ask(count: int | None) -> float:
            found: list[float] = []
            for lesson in lessons.at(0, min(count or _ASKED, len(lessons.train))):
                for batch in encode_examples(self.model, [lesson.example], lesson.task, 1).batches:
                    found += (-answer_likelihoods(self.model, batch)[0]).tolist()
            return sum(found) / len(found)

        return ask

    @property
    def speed(self) -> float:
        """Examples a second."""
        return self._seen / self._seconds if self._seconds else 0.0

    def result(self) -> dict[str, torch.Tensor]:
        """What is written of the model, in float32, by name."""
        values = self.optimiser.judged()
        return {name: values[name] for name in self.trained.parameters()}

    def gradients(self, step: int) -> float:
        """Leaves the gradients of a step, counted from 0, in the parameters.

        Returns:
            The loss: the mean over the tokens of all answers of the step, or over its pairs.
        """
        began = time.monotonic()
        total, self.rows = self.trainer.gradients(step)
        self.observe(step, self.rows)
        self._seconds, self._seen = self._seconds + time.monotonic() - began, self._seen + len(self.rows)
        return total

    def observe(self, step: int, rows: Sequence[ExampleRow]) -> None:
        """Lets the sampler see what a step, counted from 0, showed; where steps share samples, of the first of them."""
        if step % self._iterations == 0:
            self._lessons.observe(step // self._iterations, rows)

    def validate(self) -> tuple[float, float] | None:
        """A loss and a score from 0 to 1 on the validation examples, as the trainer defines them.

        None where there are no validation examples.
        """
        with self.optimiser.in_place():
            return self.trainer.validate()


def check_packing(model: Network, lessons: Sequence[TrainingExample]) -> None:
    """Refuses to pack for a model that does not tell packed examples apart: it is tried on a few.

    Raises:
        InputError: the likelihoods of the answers are other ones when the examples share a row.
    """
    import torch

    refused = InputError(
        f"{type(model).kind} of this architecture does not tell packed examples apart",
        where=model.title,
        fix="Leave --pack (`pack`) out",
    )
    if not isinstance(model, LanguageModel):
        raise refused
    task = lessons[0].task
    examples = [lesson.example for lesson in lessons if lesson.task is task]
    found = []
    with torch.inference_mode():
        for packed in (False, True):
            means: dict[int, float] = {}
            for batch in encode_examples(model, examples, task, packed=packed).batches:
                means |= zip(batch.numbers, batch.means(answer_likelihoods(model, batch)[0]).tolist(), strict=True)
            found.append([means[number] for number in range(len(examples))])
    exact = next(model.model.parameters()).dtype in (torch.float32, torch.float64)
    near = _ALIKE if exact else _ALIKE_IN_TWO_BYTES
    if not np.allclose(found[0], found[1], rtol=near, atol=near):
        raise refused


def _checkpoint_activations(model: Network) -> None:
    try:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"the model does not support activation checkpoints ({one_line(error)})",
            where=model.title,
            fix="Leave --activation-checkpoints out, and set --micro-batch",
        ) from None
