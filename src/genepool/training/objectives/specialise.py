"""Specialisation: what a teacher predicts at each step of an answer is learned, across different tokenizers too."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import AlignedObjective, ObjectiveOptions

if TYPE_CHECKING:
    import torch


class SpecialiseOptions(ObjectiveOptions):
    """Options of `specialise`."""

    top: int | None = Field(
        default=5, ge=1, le=10**6, description="The teacher's likeliest tokens that count; null: all of them."
    )


class Specialise(AlignedObjective):
    """KL(wanted || model), in nats, of each token, where `wanted` is the teacher's prediction at the same place.

    The tokens of both are aligned by dynamic programming with the edit distance of their texts, spaces left out. Where
    exactly one token of the teacher stands beside a token of the model and both are the same text, `wanted` is the
    teacher's `top` tokens that the model has too, made to add up to 1. Everywhere else, and for the token that ends an
    answer, it is the token itself.

    Example:
        >>> import torch
        >>> wanted, logs = torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
        >>> [round(float(loss), 4) for loss in Specialise().losses(logs, wanted)]
        [0.1438, 0.6931]
    """

    name = "specialise"
    source = (
        "Fu et al., Specializing Smaller Language Models towards Multi-Step Reasoning, arXiv:2301.12726: the alignment "
        "and the top 5 as in their code; that they add up to 1 is ours"
    )
    when = "another model, even one with other tokens, writes out the steps of a task that this one must learn"
    Options: ClassVar[type[ObjectiveOptions]] = SpecialiseOptions

    @property
    def top(self) -> int | None:
        assert isinstance(self.options, SpecialiseOptions)
        return self.options.top

    def losses(self, logs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        import torch

        entropy: torch.Tensor = -torch.special.xlogy(wanted, wanted).sum(-1)
        return -(wanted * logs).sum(-1) - entropy
