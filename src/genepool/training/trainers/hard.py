"""Steps that distil a teacher on images and on what a learned distribution of transformations makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.tasks.network import Network
from genepool.training.augmenter import LIMITS, Augmenter, augmented
from genepool.training.divergences import kullback_leibler
from genepool.training.journal import ExampleRow
from genepool.training.objectives.hard import Hard
from genepool.training.states import OWN
from genepool.training.trainers.answers import AnswerTrainer
from genepool.training.trainers.trainer import TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


class HardTrainer(AnswerTrainer):
    """The mean loss over the images of a step, given and transformed.

    Dropout layers are off: they would be one more difference between model and teacher.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the model reads no images.
    """

    dropout = False

    def __init__(self, inputs: TrainerInputs) -> None:
        import torch

        super().__init__(inputs)
        assert isinstance(inputs.objective, Hard)
        assert isinstance(inputs.teacher, Network)
        self._hard, self._other = inputs.objective, inputs.teacher
        self._moved = list(inputs.reference.trained.parameters().values())
        ((batch, _), *_) = self.encoded(self.lessons.train[:1])
        if augmented(batch.inputs, torch.zeros(1, len(LIMITS))) is None:
            raise InputError(
                f"{type(self.model).kind} reads no images that could be transformed",
                where=self.model.title,
                fix="Name an image classifier, or use --objective distance",
            )
        # Gradients flow through the teacher, not into it.
        self._other.model.requires_grad_(False)
        self.augmenter = Augmenter(self.model.device)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{OWN}augmenter.mean": self.augmenter.mean,
            f"{OWN}augmenter.log_spread": self.augmenter.log_spread,
        }

    def rates(self) -> dict[str, float]:
        return dict.fromkeys(self.parameters(), self._hard.pace)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        lessons = self.lessons.at(step, self.recipe.batch)
        generator = torch_generator(self.recipe.seed, "augment", step)
        noise = torch.randn(len(lessons), len(LIMITS), generator=generator)
        rows: dict[int, ExampleRow] = {}
        total = 0.0
        with self.stepping(step):
            for batch, places in self.encoded(lessons):
                losses, harder = self._both(batch, noise[places])
                own = list(self.parameters().values())
                # The model does not follow the transformations' loss, nor they the model's.
                slopes = torch.autograd.grad(harder.sum() / len(lessons), own, retain_graph=True)
                for parameter, slope in zip(own, slopes, strict=True):
                    parameter.grad = slope if parameter.grad is None else parameter.grad + slope
                share = losses.sum() / len(lessons)
                share.backward(inputs=self._moved)  # type: ignore[no-untyped-call]
                total += float(share.detach())
                for place, loss in zip(places, losses.detach().tolist(), strict=True):
                    lesson = lessons[place]
                    rows[place] = ExampleRow(lesson.task.name, lesson.example.key, loss)
        return total, [rows[place] for place in range(len(lessons))]

    def _both(self, batch: AnswerBatch, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For every image what the model minimises, and what the transformations do."""
        import torch

        inputs = augmented(batch.inputs, self.augmenter.drawn(noise))
        assert inputs is not None
        turned = replace(batch, inputs=inputs)
        with torch.no_grad():
            before = self._other.answer_logits(batch).log_softmax(-1)
        teacher = self._other.answer_logits(turned).log_softmax(-1)
        model = self.model.answer_logits(turned).log_softmax(-1)
        harder = self._hard.harder(before, teacher, model)
        given = kullback_leibler(before, self.model.answer_logits(batch).log_softmax(-1))
        return given + self._hard.weight * kullback_leibler(teacher.detach(), model), harder
