"""Steps that learn from pairs of a better and a worse answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives import PairLikelihoods, PairObjective
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.objectives import Teacher


class PairTrainer(Trainer):
    """The mean loss over the pairs of a step.

    Dropout layers are off: they would add noise to the difference of two models that a loss is made of (TRL's default).

    Args:
        inputs: the model, what it learns from, and what a step minimises.
    """

    dropout = False

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, PairObjective)
        self.objective = inputs.objective
        self.read_all(both_sides(self.lessons.train))

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)
        rows: list[ExampleRow] = []
        total = 0.0
        with self.stepping(step):
            for part in parts_of(lessons, self.size):
                policy, reference = self._likelihoods(part)
                losses = self.objective.losses(policy, reference)
                share = losses.sum() / len(lessons)
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                rows += self.rows(part, losses, policy, reference)
        return total, rows

    def rows(
        self,
        part: Sequence[TrainingExample],
        losses: torch.Tensor,
        policy: PairLikelihoods,
        reference: PairLikelihoods,
    ) -> list[ExampleRow]:
        """What is said of some pairs."""
        won, lost = (one.detach() for one in self.objective.rewards(policy, reference))
        found = []
        values = (losses.detach(), won, won - lost, policy.chosen_tokens)
        for lesson, *row in zip(part, *(one.tolist() for one in values), strict=True):
            numbers = dict(zip(("reward", "margin", "length"), row[1:], strict=True))
            found.append(ExampleRow(lesson.task.name, lesson.example.key, row[0], numbers=numbers))
        return found

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the validation pairs, and the share whose chosen answer has the higher reward."""
        import torch

        if not (pairs := self.lessons.valid):
            return None
        loss, right = 0.0, 0
        with torch.no_grad():
            for part in parts_of(pairs, self.size):
                policy, reference = self._likelihoods(part)
                loss += float(self.objective.losses(policy, reference).double().sum())
                won, lost = self.objective.rewards(policy, reference)
                right += int((won > lost).sum())
        return loss / len(pairs), right / len(pairs)

    def _likelihoods(self, part: Sequence[TrainingExample]) -> tuple[PairLikelihoods, PairLikelihoods]:
        """Of some pairs in the model and in the model as it began."""
        encoded = self.encoded(both_sides(part), 2 * self.size)
        # The reference first: what is switched off for it is on again when the graph of the other is built.
        reference = summed_likelihoods(self.reference, encoded, len(part))
        return summed_likelihoods(self.model, encoded, len(part)), reference


def summed_likelihoods(model: Teacher, encoded: Sequence[tuple[AnswerBatch, list[int]]], pairs: int) -> PairLikelihoods:
    """Log-likelihoods of answers of which the first half are chosen, the second rejected."""
    import torch

    sums: dict[int, torch.Tensor] = {}
    tokens: dict[int, int] = {}
    for batch, places in encoded:
        logits = model.answer_logits(batch)
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        logs = logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
        for place, part in zip(places, batch.parts(logs), strict=True):
            sums[place], tokens[place] = part.sum(), len(part)
    both = torch.stack([sums[place] for place in range(2 * pairs)])
    counts = torch.tensor([float(tokens[place]) for place in range(2 * pairs)], device=both.device)
    return PairLikelihoods(both[:pairs], both[pairs:], counts[:pairs], counts[pairs:])


def both_sides(lessons: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The lessons with their chosen answers, then the same with their rejected ones."""
    turned = [
        TrainingExample(one.task, replace(one.example, answers=one.example.rejected, rejected=())) for one in lessons
    ]
    return [*lessons, *turned]


def parts_of(lessons: Sequence[TrainingExample], size: int) -> Iterator[Sequence[TrainingExample]]:
    """The pairs that are computed at once."""
    for start in range(0, len(lessons), size):
        yield lessons[start : start + size]
