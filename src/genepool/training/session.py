"""A model in training: what one step computes, and how a state is judged. Knows no folder and no record.

Everything a step does belongs to (seed, step): its examples, and what dropout leaves out. Uses the objectives, the
lessons, and the trained part of a model; `run` makes it durable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from genepool import progress
from genepool.errors import InputError, one_line
from genepool.tasks import LanguageModel
from genepool.tasks.metrics import find_metric
from genepool.training.batches import answer_likelihoods, encode_examples
from genepool.training.examples import TrainingExample, TrainingExamples
from genepool.training.fit import drawing
from genepool.training.journal import ExampleRow
from genepool.training.objectives import find_objective
from genepool.training.optimiser import Optimisation, Optimiser
from genepool.training.trained import trained_part

if TYPE_CHECKING:
    from genepool.tasks import Model, Task
    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network
    from genepool.training.recipe import Training
    from genepool.weights import Weights


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

    Attributes:
        trained: the part that is trained.
        optimiser: of its parameters.
        rows: the examples of the last step, each with its loss.
        speed: examples a second, over the whole session.
    """

    def __init__(
        self,
        recipe: Training,
        model: Network,
        base: Weights,
        lessons: TrainingExamples,
        teacher: Model | None = None,
    ) -> None:
        self._recipe, self.model, self._lessons, self._teacher = recipe, model, lessons, teacher
        self._objective = find_objective(recipe.objective)
        if recipe.pack:
            check_packing(model, lessons.train[:_TRIED])
        self.trained = trained_part(model, base, recipe)
        settings = Optimisation(
            recipe.steps,
            recipe.learning_rate or self.trained.learning_rate(),
            round(recipe.warmup * recipe.steps),
            recipe.schedule,
            weight_decay=recipe.weight_decay,
            clip=recipe.clip,
        )
        self.optimiser = Optimiser(self.trained.parameters(), settings)
        self.rows: list[ExampleRow] = []
        self._check(lessons.train)
        self._checked = self._encoded(lessons.valid)
        self._seconds, self._seen = 0.0, 0
        if recipe.activation_checkpoints:
            _checkpoint_activations(model)

    @property
    def speed(self) -> float:
        """Examples a second."""
        return self._seen / self._seconds if self._seconds else 0.0

    def gradients(self, step: int) -> float:
        """Leaves the gradients of a step, counted from 0, in the parameters.

        Returns:
            The loss: the mean over the tokens of all answers of the step.
        """
        import torch

        began = time.monotonic()
        lessons = self._lessons.at(step, self._recipe.batch)
        encoded = self._encoded(lessons)
        tokens = sum(len(batch.targets) for batch, _ in encoded)
        rows: dict[int, ExampleRow] = {}
        total = 0.0
        self._begin_step()
        with torch.enable_grad(), drawing(self._recipe.seed, step, "dropout"):
            for batch, places in encoded:
                losses = self._objective.losses(self.model, batch, self._teacher)
                share = losses.sum() / tokens
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                for place, loss in zip(places, batch.means(losses.detach()).tolist(), strict=True):
                    lesson = lessons[place]
                    rows[place] = ExampleRow(lesson.task.name, lesson.example.key, loss)
        self.model.model.eval()
        self.rows = [rows[place] for place in range(len(lessons))]
        self._seconds, self._seen = self._seconds + time.monotonic() - began, self._seen + len(lessons)
        return total

    def _begin_step(self) -> None:
        """Dropout is on; running statistics stay the base's, since they are no part of what is trained."""
        import torch

        self.model.model.train()
        for module in self.model.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the tokens of the validation answers, and the share of whole answers that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, count = 0.0, 0, 0, 0
        with torch.inference_mode():
            for batch, places in self._checked:
                loss += float(self._objective.losses(self.model, batch, self._teacher).double().sum())
                tokens += len(batch.targets)
                hits = batch.means(answer_likelihoods(self.model, batch)[1].double())
                right, count = right + int((hits == 1).sum()), count + len(places)
        return loss / tokens, right / count

    def _check(self, lessons: Sequence[TrainingExample]) -> None:
        """Every training example is read once before the first step: none ends a training that has run for hours."""
        with progress.bar("reading the training examples", len(lessons), "examples") as bar:
            for lesson in lessons:
                encode_examples(self.model, [lesson.example], lesson.task, 1, closed=_closed(lesson.task))
                bar.advance()

    def _encoded(self, lessons: Sequence[TrainingExample]) -> list[tuple[AnswerBatch, list[int]]]:
        """Lessons as batches, each with the places of its rows among the lessons."""
        found = []
        order = sorted(range(len(lessons)), key=lambda place: lessons[place].task.name)
        for _, group in groupby(order, key=lambda place: lessons[place].task.name):
            places = list(group)
            task = lessons[places[0]].task
            size = self._recipe.micro_batch or self._recipe.batch
            examples, pack = [lessons[place].example for place in places], self._recipe.pack
            encoded = encode_examples(self.model, examples, task, size, closed=_closed(task), packed=pack)
            found += [(batch, [places[number] for number in batch.numbers]) for batch in encoded.batches]
        return found


def _closed(task: Task) -> bool:
    """Whether the end belongs to an answer: a choice is judged by its text alone, what is written must also end."""
    return find_metric(task.settings.metric).needs == "text"


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
