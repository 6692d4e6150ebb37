"""One model for each task: what a task scores where nothing else has to be held on to, and the task is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from genepool.seeding import numpy_generator
from genepool.training.batches import encode_examples
from genepool.training.continual.memory import Memory
from genepool.training.continual.neighbours import neighbour_accuracy
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch


class ExpertsOptions(LearnerOptions):
    """Options of `experts`."""

    start: Literal["base", "last", "nearest"] = Field(
        default="base",
        description="What each task begins with: the base; what the task before left; or, of the base and all experts, "
        "the one whose embeddings tell the answers of the new task apart best, by their nearest neighbours.",
    )
    trials: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Trainings of each task with learning rates of their own, of which the one with the best "
        "validation score is kept; 1: no search. NEVIS'22 takes 16.",
    )
    span: float = Field(
        default=4.0,
        ge=1,
        le=1e6,
        description="The rates of the search lie between the learning rate divided by it and multiplied with it.",
    )
    examples: int = Field(default=128, ge=4, description="Training examples that `nearest` embeds.")
    neighbours: int = Field(default=5, ge=1, description="Neighbours that vote on an example's answer.")


class Experts(TaskLearner):
    """Every task is asked of the model that learned it, and what was never learned of the base.

    With `trials` the learning rate of each task is searched for, and what that takes counts as what the task took: the
    protocol of NEVIS'22, whose measure is the error right after each task beside what was computed for it.

    Nothing can be forgotten, but a model must be told which task it is asked. The result is the last task's expert; the
    others stand in the folders of their tasks. They are the memory.
    """

    name = "experts"
    source = (
        "the baseline; its start `nearest` and its search after NEVIS'22 (Bornschein et al., arXiv:2211.11747); 5 "
        "neighbours and the span are ours"
    )
    when = "to see what each task could score, or whether an earlier task is a good start for a new one"
    Options: ClassVar[type[LearnerOptions]] = ExpertsOptions
    options: ExpertsOptions

    def __init__(self, options: LearnerOptions | None = None) -> None:
        super().__init__(options)
        self._accuracies: list[float] = []
        self._began_with = 0

    @property
    def knows_task(self) -> bool:
        return True

    @property
    def keeps_results(self) -> bool:
        return True

    def begins_with(self, stages: Sequence[Callable[[Sequence[str]], torch.Tensor]]) -> int:
        if self.options.start == "nearest":
            self._accuracies = [self._accuracy(embed) for embed in stages]
            # Of equals the latest: it has learned most.
            best = max(self._accuracies)
            self._began_with = max(at for at, one in enumerate(self._accuracies) if one == best)
        else:
            self._began_with = len(stages) - 1 if self.options.start == "last" else 0
        return self._began_with

    def _accuracy(self, embed: Callable[[Sequence[str]], torch.Tensor]) -> float:
        """How often the nearest neighbours of an example, in these embeddings, have its answer."""
        place, lessons = self.place, self.place.lessons
        order = numpy_generator(place.seed, "neighbours").permutation(len(lessons))[: self.options.examples].tolist()
        chosen = [lessons[one] for one in order]
        task = chosen[0].task
        encoded = encode_examples(place.model, [one.example for one in chosen], task)
        prompts = [task.prompt_for(one.example, place.model) for one in chosen]
        return neighbour_accuracy(embed(prompts), encoded.classes[1], self.options.neighbours)

    def trials(self, seed: int, number: int) -> list[float]:
        count, span = self.options.trials, self.options.span
        if count == 1:
            return []
        drawn = numpy_generator(seed, "trials", number).uniform(-1, 1, count - 1)
        return [1.0, *(span**drawn).tolist()]

    def end_task(self) -> Memory:
        told = {"nearest": self._accuracies} if self._accuracies else {}
        return Memory(facts={"began_with": self._began_with, **told})
