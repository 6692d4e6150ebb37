"""Transfer between any two models: a weaker teacher too knows something that its student does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import kullback_leibler
from genepool.training.objectives import ObjectiveOptions, TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class AnyToAnyOptions(ObjectiveOptions):
    """Options of `any_to_any`."""

    supervised: bool = Field(
        default=True, description="Compare both on the right target; false: on the likeliest target of each."
    )


class AnyToAny(TargetObjective):
    """KL from the teacher where it is surer of the target than the model as it began, else KL from that model."""

    name = "any_to_any"
    source = "Roth et al., Fantastic Gains and Where to Find Them, arXiv:2310.17653, data partitioning"
    when = "another model, even a weaker one, knows something that this one must learn without forgetting its own"
    needs_teacher = True
    Options: ClassVar[type[ObjectiveOptions]] = AnyToAnyOptions

    @property
    def needs_reference(self) -> bool:
        return True

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        assert reference is not None
        assert isinstance(self.options, AnyToAnyOptions)
        with torch.no_grad():
            other = teacher.answer_logits(batch).log_softmax(-1).to(model.device)
            own = reference.answer_logits(batch).log_softmax(-1)
            if self.options.supervised:
                targets = batch.targets.to(own.device).unsqueeze(-1)
                surer = other.gather(-1, targets) > own.gather(-1, targets)
            else:
                surer = other.amax(-1, keepdim=True) > own.amax(-1, keepdim=True)
        return kullback_leibler(torch.where(surer, other, own), model.answer_logits(batch).log_softmax(-1))
