"""DPO with the length of answers taken out: long answers are neither favoured nor punished for their length."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions, PairLikelihoods, PairObjective, PairOptions

if TYPE_CHECKING:
    import torch


class NormalisedOptions(PairOptions):
    """Options of `dpo_norm`."""

    beta: float = Field(default=5.0, gt=0, description="How strongly the model is held near the one it began as.")


class DpoNorm(PairObjective):
    """-log sigmoid(beta (d_w - d_l)), where d is a mean over the tokens of an answer.

    Example:
        >>> import torch
        >>> policy = PairLikelihoods(*torch.tensor([[-4.0], [-5.0], [2.0], [3.0]]))
        >>> began = PairLikelihoods(*torch.tensor([[-5.0], [-5.0], [2.0], [3.0]]))
        >>> round(float(DpoNorm().losses(policy, began)), 4)
        0.0789
    """

    name = "dpo_norm"
    source = "Lambert et al., Tulu 3, arXiv:2411.15124: beta 5"
    when = "answers differ much in length"
    Options: ClassVar[type[ObjectiveOptions]] = NormalisedOptions

    def rewards(self, policy: PairLikelihoods, reference: PairLikelihoods) -> tuple[torch.Tensor, torch.Tensor]:
        return super().rewards(policy.per_token(), reference.per_token())

    def losses(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        won, lost = self.rewards(policy, reference)
        return -logsigmoid(won - lost)
