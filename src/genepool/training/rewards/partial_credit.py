"""Right answers as a reward, and a little for an answer that can at least be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from genepool.training.rewards import FAILED, Reward, RewardOptions
from genepool.training.rewards.majority import VotingOptions, answer_in
from genepool.training.rewards.metric import judged
from genepool.training.samples import Sample

#: Characters of a number, at most: Python reads longer ones slowly.
_LONGEST = 400


class PartialCreditOptions(VotingOptions):
    """What can be read."""

    partial: float = Field(default=0.1, ge=0, le=1, description="Reward of a wrong answer that can be read.")
    reads: Literal["number", "text"] = Field(
        default="number", description="What can be read: a number (with thousands separators too), or any text."
    )


class PartialCreditReward(Reward):
    """1 for what the task's metric finds right, 0.1 for a wrong answer that can be read, 0 for the rest."""

    name = "partial_credit"
    source = "Luong et al., ReFT, arXiv:2401.08967: 0.1 for a wrong number"
    when = "right answers are numbers and a model first has to learn to give one"
    reads_answers = True
    Options: ClassVar[type[RewardOptions]] = PartialCreditOptions

    def score(self, samples: Sequence[Sample]) -> list[float]:
        found, errors = [], []
        for sample in samples:
            try:
                found.append(1.0 if judged(sample) == 1 else self._credit(sample.text))
            except Exception as error:
                found.append(FAILED)
                errors.append(error)
        if len(errors) == len(samples):
            raise errors[0]
        return found

    def _credit(self, text: str) -> float:
        assert isinstance(self.options, PartialCreditOptions)
        answer = answer_in(text, self.options.after)
        can_be_read = bool(answer) if self.options.reads == "text" else is_number_text(answer or "")
        return self.options.partial if can_be_read else 0.0


def is_number_text(text: str) -> bool:
    """Whether a text is a finite number as people write one: 12, -3.5, 1,200, 2e3."""
    if len(text) > _LONGEST or "_" in text:
        return False
    try:
        return math.isfinite(float(text.replace(",", "")))
    except ValueError:
        return False
