"""Unlikelihood: accepted answers become likelier, the tokens of rejected ones less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import LabelledLikelihoods, LabelledObjective, ObjectiveOptions

if TYPE_CHECKING:
    import torch

#: The least 1 - p that counts, as in the code of Welleck et al. and of Korbak et al.
_LEAST = 1e-20


class UnlikelihoodOptions(ObjectiveOptions):
    """Options of `unlikelihood`."""

    alpha: float = Field(default=1.0, ge=0, description="Weight of rejected answers, beside the accepted ones.")


class Unlikelihood(LabelledObjective):
    """-log p for each token of an accepted answer, -alpha log(1 - p) for each token of a rejected one.

    p is the likelihood of the token after all before it, those of the rejected answer too. A loss of a rejected token
    is largest where the model is surest of it. The token that ends a rejected answer is left out, since it ends right
    answers as well; the scored texts of Korbak et al. have no such token either.

    Example:
        >>> import torch
        >>> tokens = LabelledLikelihoods(torch.tensor([0.5, 0.8]).log(), torch.tensor([0.0, -1.0]))
        >>> [round(float(loss), 4) for loss in Unlikelihood().losses(tokens)]
        [0.6931, 1.6094]
    """

    name = "unlikelihood"
    source = (
        "Welleck et al., Neural Text Generation with Unlikelihood Training, arXiv:1908.04319; on labelled text: Korbak "
        "et al., Pretraining Language Models with Human Preferences, arXiv:2302.08582: alpha 1, as in their code for "
        "toxicity"
    )
    when = "answers are labelled good or bad, and the bad ones must not be given"
    ends_rejected = False
    Options: ClassVar[type[ObjectiveOptions]] = UnlikelihoodOptions

    def losses(self, tokens: LabelledLikelihoods) -> torch.Tensor:
        import torch

        assert isinstance(self.options, UnlikelihoodOptions)
        # expm1 keeps 1 - p of a token that is nearly certain, which is the one to unlearn; 1 - exp rounds it to 0.
        others = (-torch.expm1(tokens.policy)).clamp_min(_LEAST).log()
        return torch.where(tokens.rewards < 0, -self.options.alpha * others, -tokens.policy)
