"""Steps that learn what a teacher predicts, whose tokens may be others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks import LanguageModel
from genepool.training.batches import encode_examples
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives import AlignedObjective
from genepool.training.token_alignment import TokenAlignment
from genepool.training.trainers.trainer import Trainer, TrainerInputs, is_closed

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


class AlignedTrainer(Trainer):
    """The mean loss over the tokens of all answers of a step.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the model or its teacher is no causal language model, or an example does not fit one of them.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, AlignedObjective)
        self.objective = inputs.objective
        both = []
        for model in (self.model, self.teacher):
            if not isinstance(model, LanguageModel):
                raise InputError(
                    "is no causal language model, so its tokens are not aligned with others",
                    where=getattr(model, "title", "the teacher"),
                    fix="Name a causal language model, or use --objective distance",
                )
            both.append(model)
        self._other = both[1]
        self._alignment = TokenAlignment(both[0], both[1], self.objective.top)
        self.read_all(self.lessons.train)
        for lesson in self.lessons.train:
            encode_examples(self._other, [lesson.example], lesson.task, 1, closed=is_closed(lesson.task))
        self._checked = self.encoded(self.lessons.valid)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)

        def losses(batch: AnswerBatch, asked: list[TrainingExample]) -> torch.Tensor:
            return self._losses(batch, asked)[0]

        return self.token_gradients(step, lessons, self.encoded(lessons), losses, lambda _, length: {"length": length})

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the tokens of the validation answers, and the share of whole answers that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, count = 0.0, 0, 0, 0
        with torch.no_grad():
            for batch, places in self._checked:
                losses, likeliest = self._losses(batch, [self.lessons.valid[place] for place in places])
                loss += float(losses.double().sum())
                tokens += len(batch.targets)
                right += int((batch.means(likeliest.double()) == 1).sum())
                count += len(places)
        return loss / tokens, right / count

    def _losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of every token of a batch of lessons of one task, and whether it is the likeliest."""
        import torch

        task = lessons[0].task
        examples = [lesson.example for lesson in lessons]
        ours = batch.parts(batch.targets)
        wanted: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for theirs in encode_examples(self._other, examples, task, self.size, closed=is_closed(task)).batches:
                logits = theirs.parts(self._other.answer_logits(theirs))
                for place, tokens, found in zip(theirs.numbers, theirs.parts(theirs.targets), logits, strict=True):
                    wanted[place] = self._alignment.wanted(ours[place].tolist(), tokens.tolist(), found)
        logs = self.model.answer_logits(batch).log_softmax(-1)
        likeliest = logs.argmax(-1) == batch.targets.to(logs.device)
        every = torch.cat([wanted[place] for place in range(len(lessons))]).to(logs.device)
        return self.objective.losses(logs, every), likeliest
