"""Rep-MTL: several tasks at once, whose demands on one representation are told apart and aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.batches import answer_likelihoods
from genepool.training.objectives import ObjectiveOptions, TargetObjective, Teacher
from genepool.training.saliency import alignment, regulation

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class RepMtlOptions(ObjectiveOptions):
    """Options of `rep_mtl`."""

    tsr: float = Field(
        default=0.9, ge=0, description="Weight of the entropy of how tasks share a place (task-specific regulation)."
    )
    csa: float = Field(
        default=0.9, ge=0, description="Weight of the contrast of samples across tasks (cross-task alignment)."
    )
    temperature: float = Field(default=0.1, gt=0, le=100, description="Of the contrast.")
    aligned: bool = Field(
        default=False,
        description="The training examples of one number are one sample in all tasks: draw the same numbers of each. "
        "false: the n-th example that is drawn of each task stands beside the n-th of the others.",
    )
    at: str | None = Field(
        default=None,
        description="The module of the network whose output is the representation; null: the layer in the middle.",
    )
    signed: bool = Field(
        default=False,
        description="Take the size of the mean saliency over the channels, as the paper writes it, which is 0 behind a "
        "layer norm; false: the mean of their sizes.",
    )


class RepMtl(TargetObjective):
    """The mean of the tasks' losses, plus tsr times an entropy and csa times a contrast, over the number of tasks.

    S_t is the slope of task t's loss at the representation Z, and both terms are followed through S_t, by second
    derivatives. The entropy is low where each place of Z serves one task; the contrast is low where the channels of a
    sample act together in every task as they do in all. Every step has as many examples of each task: with `tsr` and
    `csa` 0 it is learning with equal weights, the control.

    The paper has one input with several labels, and a head for each task. Here every task has its own inputs, as in its
    trials on domains, so that a sample is a place in the step (see `aligned`), and what is behind Z is shared too.

    Example:
        >>> import torch
        >>> apart = torch.tensor([[[[1.0, 0.0]]] * 2, [[[0.0, 0.0]]] * 2])  # two tasks, two samples, one place
        >>> float(RepMtl().penalty(apart)) < float(RepMtl().penalty(torch.ones(2, 2, 1, 2)))
        True
    """

    name = "rep_mtl"
    source = (
        "Wang et al., Rep-MTL: Unleashing the Power of Representation-level Task Saliency for Multi-Task Learning, "
        "arXiv:2507.21049, equations 3 to 10; weights of 0.9 as in its appendix D.1; the temperature is ours, so is "
        "the mean of sizes in place of the size of a mean"
    )
    when = "several tasks are learned at once and disturb each other"
    equal_parts = True
    at_odds = ("shares", "sampler", "micro_batch", "pack", "activation_checkpoints")
    Options: ClassVar[type[ObjectiveOptions]] = RepMtlOptions

    @property
    def chosen(self) -> RepMtlOptions:
        """Its options."""
        assert isinstance(self.options, RepMtlOptions)
        return self.options

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        return -answer_likelihoods(model, batch)[0]

    def penalty(self, saliencies: torch.Tensor) -> torch.Tensor:
        """What is added to the sum of the tasks' losses, a scalar with gradients where the saliencies have them.

        Args:
            saliencies: of every task, (tasks, samples, places, width).
        """
        ask = self.chosen
        found = 0 * saliencies.sum()
        if ask.tsr:
            found = found + ask.tsr * regulation(saliencies, signed=ask.signed)
        if ask.csa:
            found = found + ask.csa * alignment(saliencies, ask.temperature)
        return found
