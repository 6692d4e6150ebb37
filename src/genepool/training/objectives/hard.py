"""Hard augmentations: a teacher is also asked transformed images, on which it is sure and its student is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import kullback_leibler
from genepool.training.objectives import ObjectiveOptions, TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class HardOptions(ObjectiveOptions):
    """Options of `hard`."""

    keep: float = Field(
        default=1.0, ge=0, description="How strongly transformations are held to those that the teacher answers alike."
    )
    weight: float = Field(default=1.0, ge=0, description="Of the transformed images, beside the images given.")
    pace: float = Field(
        default=10.0,
        ge=0,
        description="The transformations' learning rate, in those of the model; 0: they stay random.",
    )


class Hard(TargetObjective):
    """KL(teacher || model) on every image and, times `weight`, on the image under a drawn affine transformation.

    A distribution over rotation, scale, shear and shifts is learned beside the model. It minimises
    keep KL(teacher on the image || teacher on the transformed one) - KL(teacher || model on the transformed one): the
    teacher keeps its answer, and the model differs most. It is no part of the result. With `pace` 0 it stays what it
    begins as: random augmentation, the control.

    Example:
        >>> import torch
        >>> even, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
        >>> round(float(Hard().harder(sure, sure, even)), 4)
        -0.3681
    """

    name = "hard"
    source = (
        "Nix et al., HARD: Hard Augmentations for Robust Distillation, arXiv:2305.14890: learned transformations of "
        "images on which teacher and student disagree, of which only the affine ones are here; the form of their loss, "
        "the limits and all defaults are ours"
    )
    when = "a small image classifier is to take over how a larger one treats images that the data lacks"
    needs_teacher = True
    Options: ClassVar[type[ObjectiveOptions]] = HardOptions

    @property
    def weight(self) -> float:
        """Of the transformed images, beside the images given."""
        assert isinstance(self.options, HardOptions)
        return self.options.weight

    @property
    def pace(self) -> float:
        """The transformations' learning rate, in those of the model."""
        assert isinstance(self.options, HardOptions)
        return self.options.pace

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        with torch.no_grad():
            wanted = teacher.answer_logits(batch).log_softmax(-1).to(model.device)
        return kullback_leibler(wanted, model.answer_logits(batch).log_softmax(-1))

    def harder(self, before: torch.Tensor, teacher: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
        """What the transformations minimise, shape (images,).

        Args:
            before: log-probabilities of the teacher on the images given, (images, classes).
            teacher, model: on the transformed images.
        """
        assert isinstance(self.options, HardOptions)
        return self.options.keep * kullback_leibler(before, teacher) - kullback_leibler(teacher, model)
