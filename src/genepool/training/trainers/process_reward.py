"""Steps that teach a process reward model how good the steps of answers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.examples import TrainingExample, label_of
from genepool.training.journal import ExampleRow
from genepool.training.objectives.process_reward import ProcessReward
from genepool.training.reward_factors import RewardFactors
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


class ProcessRewardTrainer(Trainer):
    """The mean loss over the answers' steps of a training step.

    Args:
        inputs: the model, what it learns from, and what a step minimises.
    """

    dropout = False

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, ProcessReward)
        assert isinstance(inputs.reference.trained, RewardFactors)
        self.objective, self._factors = inputs.objective, inputs.reference.trained
        self.read_all(self.lessons.train)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)
        rows: dict[int, ExampleRow] = {}
        total = 0.0
        with self.stepping(step):
            # The next step may stand behind: nothing ends an answer here.
            for batch, places in self.encoded(lessons, closed=False):
                rewards, losses = self._judged(batch, [lessons[place] for place in places])
                share = losses.sum() / len(lessons)
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                told = zip(places, losses.detach().tolist(), rewards.detach().sigmoid().tolist(), strict=True)
                for place, loss, reward in told:
                    lesson = lessons[place]
                    rows[place] = ExampleRow(lesson.task.name, lesson.example.key, loss, numbers={"reward": reward})
        return total, [rows[place] for place in range(len(lessons))]

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the validation steps; the share of them on whose side of a half the label is too.

        None where there are none.
        """
        import torch

        if not (lessons := self.lessons.valid):
            return None
        loss, right = 0.0, 0
        with torch.no_grad():
            for batch, places in self.encoded(lessons, closed=False):
                part = [lessons[place] for place in places]
                rewards, losses = self._judged(batch, part)
                loss += float(losses.double().sum())
                good = torch.tensor([label_of(lesson) > 0.5 for lesson in part], device=rewards.device)
                right += int(((rewards > 0) == good).sum())
        return loss / len(lessons), right / len(lessons)

    def _judged(self, batch: AnswerBatch, lessons: list[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model thinks of each step of a batch, and its loss."""
        import torch

        rewards = self._factors.rewards(batch, self._factors.members[0])
        labels = torch.tensor([label_of(lesson) for lesson in lessons], device=rewards.device)
        return rewards, self.objective.step_losses(rewards, labels)
