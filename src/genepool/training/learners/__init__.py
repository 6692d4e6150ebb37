"""How tasks are learned one after another without losing the earlier ones: one file of this folder each.

A learner is asked at five places: before a task, for the loss of a batch, after the backward pass, after the step, and
after the task. What it returns there is its memory, the only thing that it still has when the next task begins. It is
found by being there; `genepool.training.continual` runs it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, validate
from genepool.training.batches import answer_likelihoods
from genepool.training.continual.memory import Memory

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.continual.lesson_place import LessonPlace
    from genepool.training.continual.retrieved import LearnedPool
    from genepool.training.examples import TrainingExample
    from genepool.training.opened_training import OpenedTraining
    from genepool.weights import Weights


class LearnerOptions(Strict):
    """Options of a learner: none, unless it says some."""

    page = "reference/training"


class TaskLearner(ABC):
    """How one task after another is learned. What is not overridden is what plain training does.

    Args:
        options: its options; the defaults when None.

    Attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        factors_only: whether it trains factors alone, never every tensor.
        classes_only: whether it needs a model that tells classes.
        one_a_row: whether every example needs a row of its own in a batch.
        retrieves: whether its result is a pool of adapters that prompts retrieve, and no weights.
        Options: the model of its options.
        options: those it was made with.
        memory: what it kept of the tasks before this one; the runner puts it there before `begin_task`.
        place: the task that is learned; the runner puts it there too.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    factors_only: ClassVar[bool] = False
    classes_only: ClassVar[bool] = False
    one_a_row: ClassVar[bool] = False
    retrieves: ClassVar[bool] = False
    Options: ClassVar[type[LearnerOptions]] = LearnerOptions

    memory: Memory
    place: LessonPlace

    def __init__(self, options: LearnerOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()
        self.memory = Memory()

    def check(self, opened: OpenedTraining) -> None:
        """Refuses what it cannot teach, before anything is written.

        Args:
            opened: the recipe, with the base and the tasks.

        Raises:
            InputError: the base, a task or a setting is none for it.
        """
        return

    @property
    def fresh_factors(self) -> bool:
        """Whether each task gets factors of its own, beside those of the tasks before it, which stay as they are.

        False: the next task goes on with the same parameters.
        """
        return False

    @property
    def knows_task(self) -> bool:
        """Whether every task is asked of the model that learned it, and what was never learned of the base."""
        return False

    def begins_with(self, stages: Sequence[Callable[[Sequence[str]], torch.Tensor]]) -> int:
        """Which stage's model a task begins with: 0 is the base, k what the k-th task left.

        Args:
            stages: of each of them, prompts -> embeddings, (prompts, width). A model is loaded when it is called.

        Returns:
            The last one, unless a learner says otherwise.
        """
        return len(stages) - 1

    @property
    def compares_examples(self) -> bool:
        """Whether its loss compares the examples of a step with each other, so that they are computed at once."""
        return False

    @property
    def keeps_results(self) -> bool:
        """Whether what every task trained is needed later, so that it counts as memory."""
        return False

    def trials(self, seed: int, number: int) -> list[float]:
        """What the learning rate is multiplied with in each trial of a search for it, the first by 1.

        Args:
            seed: of the run.
            number: of the task.

        Returns:
            Empty where nothing is searched for.
        """
        return []

    def groups(self, tasks: int) -> list[tuple[int, ...]]:
        """Which tasks are learned together, in order: each for itself, unless a learner says otherwise."""
        return [(number,) for number in range(tasks)]

    def begin_task(self) -> None:
        """Called before the first step of a task; the model is as the task before left it."""
        return

    def lessons(self, step: int, drawn: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        """The examples of a step.

        Args:
            step: counted from 0 within the task.
            drawn: of the task that is learned.
        """
        return drawn

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        """The loss of every target of a batch, shape (targets,), with gradients.

        Args:
            batch: examples and their targets.
            lessons: the example of each row of `batch.numbers`.
        """
        return -answer_likelihoods(self.place.model, batch)[0]

    def penalty(self, step: int) -> torch.Tensor | None:
        """What is added to the loss of a step once, a scalar with gradients; None where there is nothing."""
        return None

    def after_backward(self) -> None:
        """Called when the gradients of a step stand in `place.parameters`; it may change them."""
        return

    def after_step(self) -> None:
        """Called when the optimiser has moved `place.values`; it may move them further."""
        return

    def end_task(self) -> Memory:
        """What it keeps after a task, of this one and those before it; the model is as the last step left it."""
        return self.memory

    def beside(self) -> dict[str, torch.nn.Parameter]:
        """What a task trains beside the model, by name; asked once, after `begin_task`.

        It is trained as the model is, without weight decay, stands in the states of the run, and is no part of the
        result.
        """
        return {}

    def views(self, memory: Memory) -> list[Mapping[str, torch.Tensor]]:
        """What each task so far is asked with, where what is trained differs by the task: values as `deployed` gives.

        Args:
            memory: what `end_task` gave.

        Returns:
            In the order of the tasks; empty where all tasks are asked alike, or each with what its own training left.
        """
        return []

    def deployed(self) -> Mapping[str, torch.Tensor]:
        """What is written and asked after a task, float32, by name: what is trained, unless it says otherwise."""
        return self.place.values

    def pool(self, memory: Memory) -> LearnedPool | None:
        """What prompts retrieve from after a task, where that is what is asked, and no weights.

        Args:
            memory: what `end_task` gave.

        Returns:
            None where weights are asked.
        """
        return None

    def combined(self, base: str, results: Sequence[Path]) -> Weights | None:
        """The model that stands after some tasks, where it is made of what each of them trained.

        Args:
            base: the model before the first task, as it is named.
            results: what every task so far trained, adapters or skills of the base.

        Returns:
            None where it is what the last task left.
        """
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """What the next step depends on and neither the parameters nor the memory hold, by name."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `state` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        return


def learners() -> dict[str, type[TaskLearner]]:
    """Every learner by name."""
    return classes_by_name(__name__, TaskLearner)


def find_learner(name: str, options: Mapping[str, Any] | None = None, where: str = "--learner") -> TaskLearner:
    """The learner of this name.

    Args:
        name: what the command line calls it.
        options: those that are not the defaults.
        where: for errors.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    kind = of_name(learners(), "learner", name, where)
    return kind(validate(kind.Options, dict(options or {}), where))
