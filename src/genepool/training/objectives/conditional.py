"""Conditional training: good and bad answers are learned behind two prefixes; the result is asked with the good one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from genepool.checked import is_line
from genepool.training.objectives import LabelledLikelihoods, LabelledObjective, ObjectiveOptions
from genepool.weights.control import Control

if TYPE_CHECKING:
    import torch


class ConditionalOptions(ObjectiveOptions):
    """Options of `conditional`."""

    good: str = Field(
        default="<|aligned|>", min_length=1, max_length=100, description="Stands before an accepted answer."
    )
    bad: str = Field(
        default="<|misaligned|>", min_length=1, max_length=100, description="Stands before a rejected answer."
    )
    without: float = Field(default=0.01, ge=0, lt=1, description="Share of answers that are learned without a prefix.")

    @model_validator(mode="after")
    def _differ(self) -> ConditionalOptions:
        if self.good == self.bad:
            raise ValueError(f"good and bad are both {self.good!r}. Give two prefixes")
        if not (is_line(self.good) and is_line(self.bad)):
            raise ValueError("good and bad must be printable, on one line")
        return self


class Conditional(LabelledObjective):
    """-log p for each token of every answer, behind the prefix that its label asks for.

    The prefix stands between prompt and answer, and has no loss. A share `without` of the answers has none, so that the
    model can still be asked plainly. The result carries the good prefix: whoever asks it asks with it, and it writes
    neither prefix. The prefixes are texts of the model's own tokens, so the vocabulary stays as it is; the paper adds
    two tokens.

    Example:
        >>> import torch
        >>> tokens = LabelledLikelihoods(torch.tensor([0.5, 0.25]).log(), torch.tensor([0.0, -1.0]))
        >>> [round(float(loss), 4) for loss in Conditional().losses(tokens)]
        [0.6931, 1.3863]
    """

    name = "conditional"
    source = (
        "Korbak et al., Pretraining Language Models with Human Preferences, arXiv:2302.08582: the prefixes and the "
        "share of 0.01 without one as in their code, prefixes banned from what is written"
    )
    when = "answers are labelled good or bad, and the bad ones are to be told apart rather than unlearned"
    Options: ClassVar[type[ObjectiveOptions]] = ConditionalOptions

    @property
    def control(self) -> Control:
        assert isinstance(self.options, ConditionalOptions)
        return Control(self.options.good, (self.options.good, self.options.bad))

    @property
    def prefixes(self) -> tuple[str, str]:
        assert isinstance(self.options, ConditionalOptions)
        return self.options.good, self.options.bad

    @property
    def unprefixed(self) -> float:
        assert isinstance(self.options, ConditionalOptions)
        return self.options.without

    def losses(self, tokens: LabelledLikelihoods) -> torch.Tensor:
        return -tokens.policy
