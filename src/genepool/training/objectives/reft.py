"""ReFT's second half: proximal policy optimisation with a value for each token, after training on right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from genepool.training.advantages import generalised_advantages
from genepool.training.objectives import ObjectiveOptions
from genepool.training.rollout_objective import RolloutLikelihoods, RolloutOptions, ValuedRolloutObjective

if TYPE_CHECKING:
    import torch


class ReftOptions(RolloutOptions):
    """Options of `reft`."""

    samples: int = Field(default=1, ge=1, le=4096, description="Samples of each prompt.")
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="partial_credit", description="As for grpo: a reward, or several with their weights and options."
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="How far the ratio of likelihoods may move from 1.")
    value_clip: float = Field(default=0.2, gt=0, description="How far a value may move with a gain.")
    value: float = Field(default=5.0, ge=0, description="Weight of the loss of the values.")
    kl: float = Field(
        default=0.01,
        ge=0,
        description="What a nat of divergence from the model as it began costs, at its token (0.05 for prose).",
    )
    discount: float = Field(default=1.0, ge=0, le=1, description="Part of a later reward that counts, for each token.")
    decay: float = Field(
        default=0.95, ge=0, le=1, description="Lambda of the advantages: 0 trusts the values, 1 the rewards alone."
    )


class Reft(ValuedRolloutObjective):
    """-min(rho A, clip(rho) A) + value max((V - R)^2, (clip(V) - R)^2) / 2 of every token, where samples count alike.

    The reward of a sample stands at its last token, and each token costs kl (p - q), where q is its log-likelihood in
    the model as it began and p in the one that wrote it. A is the generalised advantage of these rewards over the
    values at drawing, whitened over the tokens of the step; R is the same, not whitened, plus the value. rho is the
    ratio of likelihoods to those at drawing, clipped to 1 - clip and 1 + clip; V is clipped to at most `value_clip`
    from its value at drawing. The value head is a linear layer on the last hidden state, zeros at the start, and is no
    part of the result. Dropout is off.

    Example:
        >>> import torch
        >>> from genepool.training.rollout_objective import TokenValues
        >>> values = TokenValues(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([1.0]))
        >>> zero = torch.zeros(1)
        >>> tokens = RolloutLikelihoods(zero, zero, zero, torch.tensor([2.0]), values=values)
        >>> round(float(Reft().losses(tokens)), 3)  # -2 + 5 (0.2 - 1)^2 / 2
        -0.4
    """

    name = "reft"
    source = (
        "Luong et al., ReFT: Reasoning with Reinforced Fine-Tuning, arXiv:2401.08967, and the authors' code: clip 0.2, "
        "value 5, kl 0.01, discount 1, decay 0.95; they take 2 steps on the same samples (iterations 2). The loss: "
        "Schulman et al., PPO, arXiv:1707.06347"
    )
    when = "the model has learned from right answers, and a reward tells how good what it writes is"
    per_sample = True
    Options: ClassVar[type[ObjectiveOptions]] = ReftOptions

    def token_advantages(
        self, reward: float, policy: torch.Tensor, reference: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        assert isinstance(self.options, ReftOptions)
        rewards = -self.options.kl * (policy - reference)
        rewards[-1] += reward
        return generalised_advantages(rewards, values, self.options.discount, self.options.decay)

    def losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        import torch

        assert isinstance(self.options, ReftOptions)
        assert tokens.values is not None
        options, values = self.options, tokens.values
        ratio = (tokens.policy - tokens.drawn).exp()
        clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
        gains = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        near = values.drawn + (values.now - values.drawn).clamp(-options.value_clip, options.value_clip)
        errors = torch.maximum((values.now - values.returns).square(), (near - values.returns).square())
        return options.value * 0.5 * errors - gains
