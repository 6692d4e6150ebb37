"""Steps that teach a reward model from pairs of a better and a worse answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.reward_factors import RewardFactors
from genepool.training.trainers.pairs import both_sides, parts_of
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


class RewardModelTrainer(Trainer):
    """The mean loss over the members and the pairs of a step, and how alike the members are.

    Args:
        inputs: the model, what it learns from, and what a step minimises.
    """

    dropout = False

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, RewardModelObjective)
        assert isinstance(inputs.reference.trained, RewardFactors)
        self.objective, self._factors = inputs.objective, inputs.reference.trained
        self.read_all(both_sides(self.lessons.train))

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        lessons = self.lessons.at(step, self.recipe.batch)
        rows: list[ExampleRow] = []
        total, count = 0.0, len(self._factors.members)
        with self.stepping(step):
            for part in parts_of(lessons, self.size):
                encoded = self._encoded(part)
                told = []
                for member in self._factors.members:
                    chosen, rejected = self._rewards(encoded, member, len(part))
                    losses = self.objective.losses(chosen, rejected)
                    share = losses.sum() / len(lessons) / count
                    share.backward()  # type: ignore[no-untyped-call]
                    total += float(share.detach())
                    told.append(torch.stack([losses, chosen, chosen - rejected]).detach())
                for lesson, row in zip(part, torch.stack(told).mean(0).T.tolist(), strict=True):
                    numbers = {"reward": row[1], "margin": row[2]}
                    rows.append(ExampleRow(lesson.task.name, lesson.example.key, row[0], numbers=numbers))
            if (alike := self.objective.alikeness(self._factors.stacked())) is not None:
                alike.backward()  # type: ignore[no-untyped-call]
                total += float(alike.detach())
        return total, rows

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over members and validation pairs; the share whose chosen answer has the higher mean reward."""
        import torch

        if not (pairs := self.lessons.valid):
            return None
        loss, right = 0.0, 0
        with torch.no_grad():
            for part in parts_of(pairs, self.size):
                encoded = self._encoded(part)
                both = [self._rewards(encoded, member, len(part)) for member in self._factors.members]
                loss += sum(float(self.objective.losses(*one).double().sum()) for one in both) / len(both)
                chosen, rejected = (torch.stack(side).mean(0) for side in zip(*both, strict=True))
                right += int((chosen > rejected).sum())
        return loss / len(pairs), right / len(pairs)

    def _encoded(self, part: Sequence[TrainingExample]) -> list[tuple[AnswerBatch, list[int]]]:
        # Every answer ends, as every sample does that is rewarded later.
        return self.encoded(both_sides(part), 2 * self.size, closed=True)

    def _rewards(
        self, encoded: Sequence[tuple[AnswerBatch, list[int]]], member: str, pairs: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a member thinks of the chosen and of the rejected answers, (pairs,) each."""
        import torch

        found: dict[int, torch.Tensor] = {}
        for batch, places in encoded:
            found |= zip(places, self._factors.rewards(batch, member), strict=True)
        both = torch.stack([found[place] for place in range(2 * pairs)])
        return both[:pairs], both[pairs:]
