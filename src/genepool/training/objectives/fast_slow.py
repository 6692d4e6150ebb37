"""Fast-slow chasing: two sets of factors learn the same preferences at two rates; the one behind chases the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import PairLikelihoods, PairObjective, PairOptions

if TYPE_CHECKING:
    import torch


class FastSlowOptions(PairOptions):
    """Options of `fast_slow`."""

    alpha: float = Field(
        default=0.1, ge=0, le=1, description="Weight of the gap between the preferences of the two sets of factors."
    )
    slow: float = Field(
        default=0.5, gt=0, le=1, description="The slow factors' learning rate, as a part of that of the fast ones."
    )


class FastSlow(PairObjective):
    """DPO for both sets of factors, with a term on the gap of their preferences that has a sign for each.

    With x = beta (d_w - d_l) of each set, the one of the lower mean loss of DPO on a step's pairs leads. The term is
    g = -log sigmoid(x_leader - x_chaser). The leader minimises its DPO loss + alpha g, so it gets further ahead; the
    chaser its DPO loss - alpha g, so it catches up. Neither moves the other. The fast factors are the result. Sets that
    were learned on several domains are mixed afterwards, as adapters are merged.

    Example:
        >>> import torch
        >>> policy = PairLikelihoods(*torch.tensor([[-4.0], [-9.0], [2.0], [3.0]]))
        >>> began = PairLikelihoods(*torch.tensor([[-5.0], [-5.0], [2.0], [3.0]]))
        >>> fast, slow = FastSlow().both(policy, began, began, leads=True)
        >>> [round(float(loss), 4) for loss in (fast, slow)]
        [0.5215, 0.6457]
    """

    name = "fast_slow"
    source = (
        "Qi et al., Online DPO: Online Direct Preference Optimization with Fast-Slow Chasing, arXiv:2406.05534, read "
        "through an implementation of others; alpha, slow and that a step's own pairs say who leads are ours"
    )
    when = "preferences arrive over time or change, and learning must not slow down where they are fitted already"
    Options: ClassVar[type[PairOptions]] = FastSlowOptions

    @property
    def sets_of_factors(self) -> int:
        return 2

    @property
    def slow(self) -> float:
        """The slow factors' part of the learning rate."""
        assert isinstance(self.options, FastSlowOptions)
        return self.options.slow

    def losses(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.margins(policy, reference))

    def margins(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        """beta (d_w - d_l) of every pair, shape (pairs,)."""
        won, lost = self.rewards(policy, reference)
        return won - lost

    def both(
        self, fast: PairLikelihoods, slow: PairLikelihoods, reference: PairLikelihoods, *, leads: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of every pair for the fast and for the slow factors, shape (pairs,) each.

        Args:
            fast, slow: of the model with these factors, with gradients.
            reference: of the model as it was before.
            leads: whether the fast factors lead.
        """
        from torch.nn.functional import logsigmoid

        assert isinstance(self.options, FastSlowOptions)
        alpha, x_fast, x_slow = self.options.alpha, self.margins(fast, reference), self.margins(slow, reference)
        sign = 1 if leads else -1
        # From each side: the other stands still.
        gap_fast = -logsigmoid(sign * (x_fast - x_slow.detach()))
        gap_slow = -logsigmoid(sign * (x_fast.detach() - x_slow))
        return -logsigmoid(x_fast) + sign * alpha * gap_fast, -logsigmoid(x_slow) - sign * alpha * gap_slow
