"""Identity preference optimisation: a margin is aimed at instead of being pushed to infinity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.objectives import PairLikelihoods, PairObjective

if TYPE_CHECKING:
    import torch


class Ipo(PairObjective):
    """(d_w - d_l - 1 / (2 beta))^2, where d is a mean over the tokens of an answer, as its authors computed it.

    Example:
        >>> import torch
        >>> policy = PairLikelihoods(*torch.tensor([[-4.0], [-9.0], [2.0], [4.0]]))
        >>> began = PairLikelihoods(*torch.tensor([[-5.0], [-5.0], [2.0], [4.0]]))
        >>> float(Ipo().losses(policy, began))
        12.25
    """

    name = "ipo"
    source = "Azar et al., A General Theoretical Paradigm, arXiv:2310.12036, eq. 17; beta 0.1 and means as in TRL 1.16"
    when = "preferences are nearly certain, where dpo would push likelihoods without end"

    def rewards(self, policy: PairLikelihoods, reference: PairLikelihoods) -> tuple[torch.Tensor, torch.Tensor]:
        return super().rewards(policy.per_token(), reference.per_token())

    def losses(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        won, lost = self.rewards(policy, reference)
        return ((won - lost) / self.beta - 1 / (2 * self.beta)) ** 2
