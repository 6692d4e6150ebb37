"""Learning without forgetting, task after task: what the model predicted when the task began stays likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import kullback_leibler
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.examples import TrainingExample


class LwfLearnerOptions(LearnerOptions):
    """Options of `lwf`."""

    weight: float = Field(default=0.5, ge=0, description="Of keeping the old predictions, beside the likelihood.")
    temperature: float = Field(default=2.0, gt=0, le=100, description="Softens both predictions that are compared.")


class LwfLearner(TaskLearner):
    """Minus the log-likelihood, plus the KL from the model as the task before left it, on the new task's examples.

    While the first task is learned that model is the base. It is kept in memory during a task and not beyond: the
    memory between two tasks is empty.
    """

    name = "lwf"
    source = (
        "Li and Hoiem, arXiv:1606.09282: temperature 2; weight 0.5 as Mammoth's; there is no new head to warm up, as "
        "all tasks answer in the same tokens"
    )
    when = "nothing may be kept between tasks"
    Options: ClassVar[type[LearnerOptions]] = LwfLearnerOptions
    options: LwfLearnerOptions

    def begin_task(self) -> None:
        # A copy, made now: later the parameters have moved.
        self._before = dict(self.place.start)

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        model, heat = self.place.model, self.options.temperature
        with self.place.looking_back(self._before):
            before = (model.answer_logits(batch) / heat).log_softmax(-1)
        logits = model.answer_logits(batch)
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        learned = -logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
        return learned + self.options.weight * kullback_leibler(before, (logits / heat).log_softmax(-1))
