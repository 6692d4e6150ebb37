"""Experience replay: some examples of every task are kept, and a part of each later step is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool import progress
from genepool.errors import InputError
from genepool.training.continual.kept_examples import draw_kept, keep_examples
from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    from genepool.training.examples import TrainingExample
    from genepool.training.opened_training import OpenedTraining


class ReplayOptions(LearnerOptions):
    """Options of `replay`."""

    examples: int = Field(default=64, ge=1, le=10**7, description="Examples of each task that are kept, at most.")
    budget: int | None = Field(
        default=None, ge=1, description="Bytes of all kept examples together, in equal parts; null: no limit."
    )
    share: float = Field(default=0.5, gt=0, lt=1, description="The part of a step that is made of kept examples.")


class Replay(TaskLearner):
    """A step has `share` kept examples and the rest of the task that is learned; all count alike.

    Each of the two has one example at least, however small the step.
    """

    name = "replay"
    source = "Chaudhry et al., On Tiny Episodic Memories, arXiv:1902.10486: half of a step; 64 examples a task is ours"
    when = "examples of earlier tasks may be kept"
    Options: ClassVar[type[LearnerOptions]] = ReplayOptions
    options: ReplayOptions

    def check(self, opened: OpenedTraining) -> None:
        if opened.recipe.batch < 2:
            raise InputError(
                "got 1, which leaves no room for a kept example beside the new one",
                where=opened.recipe.key("batch"),
                fix="Set 2 or more, or use another learner",
            )

    def lessons(self, step: int, drawn: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        if not self.memory.examples:
            return drawn
        place = self.place
        count = min(max(round(self.options.share * len(drawn)), 1), len(drawn) - 1)
        kept = draw_kept(self.memory, place.earlier, count, seed=place.seed, purpose="replay", step=step)
        return [*drawn[: len(drawn) - count], *kept]

    def end_task(self) -> Memory:
        ask = self.options
        kept = keep_examples(
            self.memory, self.place.lessons, seed=self.place.seed, most=ask.examples, budget=ask.budget
        )
        held = {one.task for one in kept}
        known = [
            *dict.fromkeys(
                [*(one.task for one in self.memory.examples), *(one.task.name for one in self.place.lessons)]
            )
        ]
        for task in (name for name in known if name not in held):
            progress.message(f"{task}: the budget ({ask.budget:,} B) has no room for an example, so none is rehearsed")
        return Memory(examples=kept)
