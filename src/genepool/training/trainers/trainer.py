"""What all trainers share: whom they train, how lessons become batches, and what stays still in a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genepool import progress
from genepool.errors import InputError
from genepool.tasks.metrics import find_metric
from genepool.training.batches import EncodedExamples, encode_examples
from genepool.training.examples import TrainingExample, TrainingExamples, by_task
from genepool.training.fit import drawing
from genepool.training.journal import ExampleRow

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Task
    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network
    from genepool.training.objectives import Objective, Teacher
    from genepool.training.recipe import Training
    from genepool.training.trained import Reference


@dataclass(frozen=True)
class TrainerInputs:
    """What a trainer is made of.

    Attributes:
        recipe: the training.
        model: the one that is trained, in place.
        lessons: what it learns from.
        objective: what a step minimises.
        teacher: whose predictions the objective compares with; None where it needs nobody.
        reference: the model as it was before the training.
    """

    recipe: Training
    model: Network
    lessons: TrainingExamples
    objective: Objective
    teacher: Teacher | None
    reference: Reference


class Trainer(ABC):
    """Turns the lessons of a step into gradients.

    Args:
        inputs: the model, what it learns from, and what a step minimises.
    """

    #: Whether dropout layers drop something during a step.
    dropout: ClassVar[bool] = True

    def __init__(self, inputs: TrainerInputs) -> None:
        self.recipe, self.model, self.lessons = inputs.recipe, inputs.model, inputs.lessons
        self.teacher, self.reference = inputs.teacher, inputs.reference

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained beside the model and is no part of the result, by names that begin with `OWN`."""
        return {}

    def rates(self) -> dict[str, float]:
        """The part of the learning rate of what is trained beside the model, by its name; 1 for all others."""
        return {}

    @abstractmethod
    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        """Leaves the gradients of a step, counted from 0, in the parameters.

        Returns:
            The loss, and a row for every example or sample of the step.
        """

    @abstractmethod
    def validate(self) -> tuple[float, float] | None:
        """A loss and a score from 0 to 1 on the validation examples; None where there are none."""

    def before_first_step(self) -> None:
        """Looks at what must hold before anything is learned.

        Raises:
            InputError: the training would do harm.
        """
        return

    @contextmanager
    def stepping(self, step: int) -> Iterator[None]:
        """Inside, gradients are on and dropout draws from (seed, step).

        Running statistics stay the base's, since they are no part of what is trained.
        """
        import torch

        network = self.model.model
        network.train()
        for module in network.modules():
            still = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            if still or (not self.dropout and isinstance(module, torch.nn.modules.dropout._DropoutNd)):
                module.eval()
        with torch.enable_grad(), drawing(self.recipe.seed, step, "dropout"):
            yield
        network.eval()

    @property
    def size(self) -> int:
        """Examples that are computed at once, at most."""
        return self.recipe.micro_batch or self.recipe.batch

    def read_all(self, lessons: Sequence[TrainingExample], never: Mapping[str, Sequence[int]] | None = None) -> None:
        """Reads every training example once before the first step: none ends a training that has run for hours.

        Args:
            lessons: the examples.
            never: texts, each with its tokens, that the result cannot write: an answer that is right must not hold one.

        Raises:
            InputError: one cannot be read, or has such an answer.
        """
        with progress.bar("reading the training examples", len(lessons), "examples") as bar:
            for start in range(0, len(lessons), self.size):
                some = lessons[start : start + self.size]
                for task, places in by_task(some):
                    chosen = [some[place] for place in places]
                    found = encode_examples(
                        self.model, [one.example for one in chosen], task, self.size, closed=is_closed(task)
                    )
                    if never:
                        _check_writable(chosen, found, never)
                bar.advance(len(some))

    def token_gradients(
        self,
        step: int,
        lessons: Sequence[TrainingExample],
        encoded: Sequence[tuple[AnswerBatch, list[int]]],
        losses_of: Callable[[AnswerBatch, list[TrainingExample]], torch.Tensor],
        numbers_of: Callable[[TrainingExample, int], dict[str, float]],
    ) -> tuple[float, list[ExampleRow]]:
        """Leaves the gradients of the mean loss over the tokens of all answers of a step.

        Args:
            step: its number.
            lessons: the examples.
            encoded: they as batches, each with the places of its rows among the examples.
            losses_of: the loss of each token of a batch, `(tokens,)`.
            numbers_of: what is said of an example beside its loss, by its number of tokens.

        Returns:
            The loss, and a row for each example.
        """
        tokens = sum(len(batch.targets) for batch, _ in encoded)
        rows: dict[int, ExampleRow] = {}
        total = 0.0
        with self.stepping(step):
            for batch, places in encoded:
                # What a layer computes for a task is asked for again in the backward pass, with checkpoints.
                with self.reference.trained.about(lessons[places[0]].task.name):
                    losses = losses_of(batch, [lessons[place] for place in places])
                    share = losses.sum() / tokens
                    share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                lengths = map(len, batch.parts(losses))
                means = batch.means(losses.detach()).tolist()
                for place, loss, length in zip(places, means, lengths, strict=True):
                    lesson = lessons[place]
                    numbers = numbers_of(lesson, length)
                    rows[place] = ExampleRow(lesson.task.name, lesson.example.key, loss, numbers=numbers)
        return total, [rows[place] for place in range(len(lessons))]

    def encoded(
        self, lessons: Sequence[TrainingExample], size: int | None = None, closed: bool | None = None
    ) -> list[tuple[AnswerBatch, list[int]]]:
        """Lessons as batches, each with the places of its rows among the lessons.

        Args:
            lessons: what is read.
            size: examples in a batch, at most; None: `size`.
            closed: whether the token that ends an answer is part of it; None: where the task says so.
        """
        found = []
        for task, places in by_task(lessons):
            examples = [lessons[place].example for place in places]
            ends = is_closed(task) if closed is None else closed
            encoded = encode_examples(
                self.model, examples, task, size or self.size, closed=ends, packed=self.recipe.pack
            )
            found += [(batch, [places[number] for number in batch.numbers]) for batch in encoded.batches]
        return found


def is_closed(task: Task) -> bool:
    """Whether the end belongs to an answer: a choice is judged by its text alone, what is written must also end."""
    return find_metric(task.settings.metric).needs == "text"


def _check_writable(
    lessons: Sequence[TrainingExample], encoded: EncodedExamples, never: Mapping[str, Sequence[int]]
) -> None:
    """Refuses a right answer that holds a text which the result never writes."""
    answers = {
        number: part.tolist()
        for batch in encoded.batches
        for number, part in zip(batch.numbers, batch.parts(batch.targets), strict=True)
    }
    for number, lesson in enumerate(lessons):
        row = answers[number] if lesson.good else []
        for text, tokens in never.items():
            size = len(tokens)
            if any(list(tokens) == row[at : at + size] for at in range(len(row) - size + 1)):
                raise InputError(
                    f"its answer {lesson.example.answer[:40]!r} holds {text!r}, which the result could not write",
                    where=lesson.example.place(lesson.task.name),
                    fix="Set another text, one that no right answer holds",
                )
