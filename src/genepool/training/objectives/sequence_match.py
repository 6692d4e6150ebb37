"""SequenceMatch: answers are imitated as whole ways through the states of a model, with a token that takes one back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import Objective, ObjectiveOptions
from genepool.weights.control import Control

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Transitions:
    """What a model thinks of some steps through its states; each tensor has the shape (steps,).

    A state is a prompt and what is written behind it. A step chooses a token, or takes one back.

    Attributes:
        chosen: Q of each step: the logit of what was chosen.
        before: V of the state before it: the log-sum-exp of all logits there.
        after: V of the state behind it.
        discounts: gamma to the number of steps before it; for the steps that stay behind an end for ever, their sum.
    """

    chosen: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    discounts: torch.Tensor


class SequenceMatchOptions(ObjectiveOptions):
    """Options of `sequence_match`."""

    backspace: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="A token that answers do not hold, which takes the one before it back; null: none is taught.",
    )
    mistakes: float = Field(
        default=0.5, ge=0, le=1, description="Share of answers that show one wrong token and how it is taken back."
    )
    gamma: float = Field(default=0.99, gt=0, lt=1, description="Discount of a step.")
    alpha: float = Field(default=1.0, gt=0, description="The smaller, the more large rewards of data are damped.")


class SequenceMatch(Objective):
    """The chi-squared form of inverse soft Q-learning with the model's own logits as Q.

    With V(s) = logsumexp Q(s, .) and phi(x) = x - x^2 / (4 alpha), it minimises, discounted,
    -E_data phi(Q(s, a) - gamma V(s')) + 1/2 E_data (V(s) - gamma V(s')) + 1/2 E_model (V(s) - gamma V(s')).
    Behind the end of an answer there is one choice, to stay there for ever, so that over a whole way the last two are
    half of V of the prompt each. E_model is over answers that the model itself writes. A wrong token of an answer is
    not imitated; that it is taken back is. The result carries the backspace: whoever asks it removes both tokens and
    goes on from there.

    Example:
        >>> import torch
        >>> steps = Transitions(*torch.tensor([[1.0, 2.0], [2.0, 2.0], [2.0, 0.0], [1.0, 0.5]]))
        >>> losses = SequenceMatch(SequenceMatchOptions(gamma=0.5)).data_losses(steps)
        >>> [round(float(loss), 4) for loss in losses]
        [0.5, 0.0]
    """

    name = "sequence_match"
    source = (
        "Cundy and Ermon, SequenceMatch, arXiv:2306.05426; derived anew from Garg et al., IQ-Learn, "
        "arXiv:2106.12142, with an end that lasts for ever; mistakes, gamma and alpha are ours"
    )
    when = "mistakes of a model pile up while it writes, and it should come back from them"
    Options: ClassVar[type[ObjectiveOptions]] = SequenceMatchOptions
    options: SequenceMatchOptions

    @property
    def control(self) -> Control | None:
        back = self.options.backspace
        return None if back is None else Control(backspace=back)

    def data_losses(self, steps: Transitions) -> torch.Tensor:
        """Of every step of the data, shape (steps,): -phi(Q - gamma V') + (V - gamma V') / 2, discounted."""
        reward = steps.chosen - self.options.gamma * steps.after
        damped = reward - reward.square() / (4 * self.options.alpha)
        return steps.discounts * -damped + self.own_losses(steps)

    def own_losses(self, steps: Transitions) -> torch.Tensor:
        """Of every step of what the model wrote, shape (steps,): (V - gamma V') / 2, discounted."""
        return steps.discounts * (steps.before - self.options.gamma * steps.after) / 2
