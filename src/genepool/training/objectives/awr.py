"""Advantage-weighted regression: answers count the more, the better they are than was expected at each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import LabelledLikelihoods, LabelledObjective, ObjectiveOptions

if TYPE_CHECKING:
    import torch


class AwrOptions(ObjectiveOptions):
    """Options of `awr`."""

    alpha: float = Field(default=0.5, ge=0, le=1, description="Weight of the answers; the value head has the rest.")
    beta: float = Field(
        default=10.0,
        gt=0,
        description="Temperature of the weights: a smaller one tells accepted and rejected answers further apart.",
    )
    clip: float = Field(default=1000.0, gt=0, description="The largest weight of a token.")


class Awr(LabelledObjective):
    """-alpha min(exp(A / beta), clip) log p + (1 - alpha) (r - V)^2 for each token, with the advantage A = r - V.

    r is 0 for an accepted and -1 for a rejected answer. V is what a value head expects of r before the token, between
    -1 and 0; no gradient flows through the weights. A rejected answer is learned too, with a smaller weight: its part
    of that of an accepted one is exp(-1 / beta), where V is alike.

    Example:
        >>> import torch
        >>> half = torch.tensor([0.5, 0.5])
        >>> tokens = LabelledLikelihoods(half.log(), torch.tensor([0.0, -1.0]), -half)
        >>> [round(float(loss), 4) for loss in Awr().losses(tokens)]
        [0.4893, 0.4547]
    """

    name = "awr"
    source = (
        "Peng et al., Advantage-Weighted Regression, arXiv:1910.00177; on labelled text: Korbak et al., Pretraining "
        "Language Models with Human Preferences, arXiv:2302.08582: alpha 0.5 and beta 10, as in their code for "
        "toxicity, clip 1000"
    )
    when = "answers are labelled good or bad, and the bad ones still show how to write"
    needs_values = True
    Options: ClassVar[type[ObjectiveOptions]] = AwrOptions

    def losses(self, tokens: LabelledLikelihoods) -> torch.Tensor:
        assert isinstance(self.options, AwrOptions)
        assert tokens.values is not None
        weights = ((tokens.rewards - tokens.values.detach()) / self.options.beta).exp().clamp_max(self.options.clip)
        errors = (tokens.rewards - tokens.values).square()
        return -self.options.alpha * weights * tokens.policy + (1 - self.options.alpha) * errors
