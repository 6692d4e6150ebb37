"""Direct preference optimisation, and its form for preferences of which some are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions, PairLikelihoods, PairObjective, PairOptions

if TYPE_CHECKING:
    import torch


class DpoOptions(PairOptions):
    """Options of `dpo`."""

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="The share of pairs that are taken to be the wrong way round (robust)."
    )


class Dpo(PairObjective):
    """-log sigmoid(x) with x = beta (d_w - d_l); with a label smoothing e, the robust form.

    The robust form is (-(1 - e) log sigmoid(x) + e log sigmoid(-x)) / (1 - 2e): its mean over pairs of which a share e
    is the wrong way round is that of the plain form over the right ones.

    Example:
        >>> import torch
        >>> policy = PairLikelihoods(*torch.tensor([[-4.0], [-9.0], [2.0], [3.0]]))
        >>> began = PairLikelihoods(*torch.tensor([[-5.0], [-5.0], [2.0], [3.0]]))
        >>> round(float(Dpo().losses(policy, began)), 4)
        0.4741
    """

    name = "dpo"
    source = (
        "Rafailov et al., Direct Preference Optimization, arXiv:2305.18290: beta 0.1; robust: Chowdhury et al., "
        "arXiv:2403.00409"
    )
    when = "there are pairs of a better and a worse answer"
    Options: ClassVar[type[ObjectiveOptions]] = DpoOptions

    def losses(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        assert isinstance(self.options, DpoOptions)
        won, lost = self.rewards(policy, reference)
        noise = self.options.label_smoothing
        if not noise:
            return -logsigmoid(won - lost)
        return (-(1 - noise) * logsigmoid(won - lost) + noise * logsigmoid(lost - won)) / (1 - 2 * noise)
