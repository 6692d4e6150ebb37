"""Steps that learn from answers that are labelled good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from genepool.training.batches import answer_likelihoods
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives import LabelledLikelihoods, LabelledObjective
from genepool.training.states import OWN
from genepool.training.trainers.trainer import Trainer, TrainerInputs
from genepool.training.value_head import ValueHead

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


class LabelTrainer(Trainer):
    """The mean loss over the tokens of all answers of a step, accepted and rejected ones.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the objective needs a value head, and the model has no place for one.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, LabelledObjective)
        self.objective = inputs.objective
        self._head = ValueHead(self.model) if self.objective.needs_values else None
        self.read_all(self.lessons.train)
        self._checked = self._labelled(self.lessons.valid)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {} if self._head is None else {f"{OWN}value_head": self._head.weight}

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)
        encoded = self._labelled(lessons)

        def numbers(lesson: TrainingExample, length: int) -> dict[str, float]:
            return {"length": float(length), "reward": reward_of(lesson)}

        return self.token_gradients(step, lessons, encoded, lambda batch, asked: self._losses(batch, asked)[0], numbers)

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the tokens of all validation answers; the share of accepted ones that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, accepted = 0.0, 0, 0, 0
        with torch.no_grad():
            for batch, places in self._checked:
                lessons = [self.lessons.valid[place] for place in places]
                losses, likeliest = self._losses(batch, lessons)
                loss += float(losses.double().sum())
                tokens += len(batch.targets)
                whole = (batch.means(likeliest.double()) == 1).tolist()
                right += sum(one and lesson.good for one, lesson in zip(whole, lessons, strict=True))
                accepted += sum(lesson.good for lesson in lessons)
        return loss / tokens, right / accepted

    def _labelled(self, lessons: Sequence[TrainingExample]) -> list[tuple[AnswerBatch, list[int]]]:
        """As `encoded`; rejected answers without the token that ends one, where the objective leaves it out."""
        if self.objective.ends_rejected:
            return self.encoded(lessons)
        found = []
        for good in (True, False):
            places = [place for place, lesson in enumerate(lessons) if lesson.good is good]
            encoded = self.encoded([lessons[place] for place in places], closed=None if good else False)
            found += [(batch, [places[number] for number in numbers]) for batch, numbers in encoded]
        return found

    def _losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of every token of a batch of lessons, and whether it is the likeliest."""
        import torch

        values = None
        with nullcontext() if self._head is None else self._head.listening():
            policy, likeliest = answer_likelihoods(self.model, batch)
            if self._head is not None:
                values = self._head.values(batch)
        rewards = torch.tensor([reward_of(lesson) for lesson in lessons])[batch.owners].to(policy.device)
        return self.objective.losses(LabelledLikelihoods(policy, rewards, values)), likeliest


def reward_of(lesson: TrainingExample) -> float:
    """0 for an accepted answer, -1 for a rejected one: minus how bad it is, as Korbak et al. score a text."""
    return 0.0 if lesson.good else -1.0
