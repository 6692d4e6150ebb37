"""Group relative policy optimisation: samples that are better than the others of their prompt become likelier."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import drawn_divergences
from genepool.training.objectives import ObjectiveOptions
from genepool.training.rollout_objective import RolloutLikelihoods, RolloutObjective, RolloutOptions

if TYPE_CHECKING:
    import torch

#: Added to the standard deviation of a group, as in TRL.
_LEAST = 1e-4


class GrpoOptions(RolloutOptions):
    """Options of `grpo`."""

    clip: float = Field(
        default=0.2, gt=0, lt=1, description="How far the ratio of likelihoods may move from 1 with a gain."
    )
    clip_high: float | None = Field(
        default=None, gt=0, lt=100, description="The same upwards, where it differs (DAPO's 0.28); null: as clip."
    )
    kl: float = Field(default=0.0, ge=0, description="Weight of the divergence from the model as it began.")
    entropy: float = Field(default=0.0, ge=0, description="Weight of the entropy of every prediction, which is raised.")


class Grpo(RolloutObjective):
    """The clipped policy gradient with A = (r - mean) / (std + 1e-4) of a prompt's samples, summed over all tokens.

    -min(rho A, clip(rho, 1 - c, 1 + c) A) + kl (exp(q - p) - (q - p) - 1) - entropy H of every token, over the number
    of tokens of the step (DAPO's normalisation). rho is the ratio of likelihoods to those at drawing; q is the
    log-likelihood in the model as it began, p in the one that is trained; H is the entropy of what that one predicts at
    the token. The standard deviation is that of a sample (n - 1).

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
        return self.options.kl > 0 or super().needs_reference

    @property
    def needs_entropies(self) -> bool:
        assert isinstance(self.options, GrpoOptions)
        return self.options.entropy > 0

    @property
    def moves_all(self) -> bool:
        assert isinstance(self.options, GrpoOptions)
        return self.options.kl > 0 or self.options.entropy > 0

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        known = rewards.isfinite()
        count = known.sum(1, keepdim=True).clamp_min(1)
        apart = centred(rewards)
        variance = apart.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
        return apart / (variance.sqrt() + _LEAST)

    def losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        import torch

        assert isinstance(self.options, GrpoOptions)
        options = self.options
        ratio = (tokens.policy - tokens.drawn).exp()
        clipped = ratio.clamp(1 - options.clip, 1 + (options.clip_high or options.clip))
        losses = -torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        if options.kl and tokens.reference is not None:
            losses = losses + options.kl * drawn_divergences(tokens.policy, tokens.reference)
        if tokens.entropies is not None:
            losses = losses - options.entropy * tokens.entropies
        return losses


def centred(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards minus the mean of their prompt, shape (prompts, samples); 0 for one that is NaN, which no mean counts."""
    import torch

    known = rewards.isfinite()
    count = known.sum(1, keepdim=True).clamp_min(1)
    means = rewards.nan_to_num(0.0).sum(1, keepdim=True) / count
    return torch.where(known, rewards - means, 0.0)
