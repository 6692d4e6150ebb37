"""Group relative policy optimisation: samples that are better than the others of their prompt become likelier."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import drawn_divergences
from genepool.training.objectives import ObjectiveOptions, RolloutLikelihoods, RolloutObjective, RolloutOptions

if TYPE_CHECKING:
    import torch

#: Added to the standard deviation of a group, as in TRL.
_LEAST = 1e-4


class GrpoOptions(RolloutOptions):
    """Options of `grpo`."""

    clip: float = Field(
        default=0.2, gt=0, lt=1, description="How far the ratio of likelihoods may move from 1 with a gain."
    )
    kl: float = Field(default=0.0, ge=0, description="Weight of the divergence from the model as it began.")


class Grpo(RolloutObjective):
    """The clipped policy gradient with A = (r - mean) / (std + 1e-4) of a prompt's samples, summed over all tokens.

    -min(rho A, clip(rho, 1 - c, 1 + c) A) + kl (exp(q - p) - (q - p) - 1) of every token, over the number of tokens of
    the step (DAPO's normalisation). rho is the ratio of likelihoods to those at drawing; q is the log-likelihood in the
    model as it began, p in the one that is trained. The standard deviation is that of a sample (n - 1).

    Example:
        >>> import torch
        >>> [round(float(a), 3) for a in Grpo().advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0]]
        [1.5, -0.5, -0.5, -0.5]
    """

    name = "grpo"
    source = (
        "Shao et al., DeepSeekMath, arXiv:2402.03300: 8 samples at temperature 1, clip 0.2; kl 0 and the sum over "
        "tokens: Yu et al. (DAPO), arXiv:2503.14476"
    )
    when = "answers can be judged but right ones need not be known"
    Options: ClassVar[type[ObjectiveOptions]] = GrpoOptions

    @property
    def needs_reference(self) -> bool:
        assert isinstance(self.options, GrpoOptions)
        return self.options.kl > 0

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        import torch

        known = rewards.isfinite()
        count = known.sum(1, keepdim=True).clamp_min(1)
        centred = rewards - rewards.nan_to_num(0.0).sum(1, keepdim=True) / count
        variance = centred.nan_to_num(0.0).square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
        return torch.where(known, centred / (variance.sqrt() + _LEAST), 0.0)

    def losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        import torch

        assert isinstance(self.options, GrpoOptions)
        ratio, clip = (tokens.policy - tokens.drawn).exp(), self.options.clip
        clipped = ratio.clamp(1 - clip, 1 + clip)
        losses = -torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        if self.options.kl and tokens.reference is not None:
            losses = losses + self.options.kl * drawn_divergences(tokens.policy, tokens.reference)
        return losses
