"""Steps that learn from answers: those of the data, or those that the model writes itself and a teacher corrects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.seeding import numpy_generator
from genepool.training.batches import answer_likelihoods
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives import TargetObjective
from genepool.training.samples import draw_samples, sample_batches
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.objectives import OwnAnswers


class AnswerTrainer(Trainer):
    """The mean loss over the tokens of all answers of a step.

    Args:
        inputs: the model, what it learns from, and what a step minimises.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, TargetObjective)
        self.objective = inputs.objective
        self.read_all(self.lessons.train)
        self._checked = self.encoded(self.lessons.valid)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)
        encoded = self._answered(lessons, step)

        def numbers(_: TrainingExample, length: int) -> dict[str, float]:
            return {"length": length} if self.objective.own_answers else {}

        return self.token_gradients(step, lessons, encoded, lambda batch, _: self._losses(batch), numbers)

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the tokens of the validation answers, and the share of whole answers that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, count = 0.0, 0, 0, 0
        # Not inference mode: a reference switches factors off and on again.
        with torch.no_grad():
            for batch, places in self._checked:
                with self.reference.trained.about(self.lessons.valid[places[0]].task.name):
                    loss += float(self._losses(batch).double().sum())
                    hits = batch.means(answer_likelihoods(self.model, batch)[1].double())
                tokens += len(batch.targets)
                right, count = right + int((hits == 1).sum()), count + len(places)
        return loss / tokens, right / count

    def losses_of(self, lessons: Sequence[TrainingExample]) -> list[float]:
        """The mean loss over the tokens of the answer of each example, in their order; nothing is learned."""
        import torch

        found = [0.0] * len(lessons)
        with torch.no_grad():
            for batch, places in self.encoded(lessons):
                with self.reference.trained.about(lessons[places[0]].task.name):
                    means = batch.means(self._losses(batch)).tolist()
                for place, mean in zip(places, means, strict=True):
                    found[place] = mean
        return found

    def outputs_of(self, lessons: Sequence[TrainingExample]) -> list[tuple[float, float]]:
        """What is predicted for each example, in their order; nothing is learned.

        Returns:
            Of each, as means over the tokens of its answer: the entropy of the prediction in nats, and its distance
            from the truth, ||p - onehot||.
        """
        import torch

        found = [(0.0, 0.0)] * len(lessons)
        with torch.no_grad():
            for batch, places in self.encoded(lessons):
                with self.reference.trained.about(lessons[places[0]].task.name):
                    logs = torch.log_softmax(self.model.answer_logits(batch).float(), -1)
                chances = logs.exp()
                own = chances.gather(-1, batch.targets.to(logs.device).unsqueeze(-1)).squeeze(-1)
                # ||p - y||^2 = sum p^2 - 2 p_y + 1; rounding may leave a little below 0.
                apart = (chances.square().sum(-1) - 2 * own + 1).clamp_min(0).sqrt()
                # 0 log 0 is 0, where a choice is ruled out.
                entropies = -(chances * logs.clamp_min(-1e4)).sum(-1)
                pairs = zip(batch.means(entropies).tolist(), batch.means(apart).tolist(), strict=True)
                for place, pair in zip(places, pairs, strict=True):
                    found[place] = pair
        return found

    def gradient_of(self, lesson: TrainingExample) -> None:
        """Leaves the gradient of the mean loss over the tokens of one answer in the parameters; nothing is dropped."""
        import torch

        with torch.enable_grad(), self.reference.trained.about(lesson.task.name):
            for batch, _ in self.encoded([lesson], 1):
                self._losses(batch).mean().backward()  # type: ignore[no-untyped-call]

    def _losses(self, batch: AnswerBatch) -> torch.Tensor:
        reference = self.reference if self.objective.needs_reference else None
        return self.objective.losses(self.model, batch, self.teacher, reference)

    def _answered(self, lessons: Sequence[TrainingExample], step: int) -> list[tuple[AnswerBatch, list[int]]]:
        """Lessons as batches with the answers of the data; a share of them with what the model writes now."""
        if (own := self.objective.own_answers) is None:
            return self.encoded(lessons)
        drawn = [place for place, lesson in enumerate(lessons) if self._is_own(lesson, step, own)]
        given = [place for place in range(len(lessons)) if place not in set(drawn)]
        found: list[tuple[AnswerBatch, list[int]]] = []
        if drawn:
            chosen = [lessons[place] for place in drawn]
            samples = draw_samples(self.model, chosen, 1, own.temperature, seed=self.recipe.seed, step=step)
            batches = sample_batches(self.model, samples, self.size)
            found += [(batch, [drawn[number] for number in batch.numbers]) for batch in batches]
        if given:
            encoded = self.encoded([lessons[place] for place in given])
            found += [(batch, [given[place] for place in places]) for batch, places in encoded]
        return found

    def _is_own(self, lesson: TrainingExample, step: int, own: OwnAnswers) -> bool:
        return bool(numpy_generator(self.recipe.seed, "own", step, lesson.example.key).random() < own.share)
