"""Agreement with the most frequent answer as a reward: no right answer is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from genepool.training.rewards import Reward, RewardOptions
from genepool.training.samples import Sample


class VotingOptions(RewardOptions):
    """What of a text is its answer."""

    after: str = Field(
        default="",
        description="The answer is what stands behind the last occurrence of this text; a sample without it has none. "
        "Empty: the whole text.",
    )


class MajorityReward(Reward):
    """1 for the answer that most samples of the prompt give, 0 for every other.

    White space around an answer does not count. Of equally frequent answers it is the one that was drawn first.
    """

    name = "majority"
    source = "Zuo et al., TTRL: Test-Time Reinforcement Learning, arXiv:2504.16084"
    when = "right answers are not known and the model is mostly right: refused where maj@k is below 0.5"
    follows_majority = True
    Options: ClassVar[type[RewardOptions]] = VotingOptions

    def score(self, samples: Sequence[Sample]) -> list[float]:
        answers = self.answers(samples)
        elected = most_frequent(answers)
        return [float(elected is not None and answer == elected) for answer in answers]

    def elected(self, samples: Sequence[Sample]) -> Sample | None:
        answers = self.answers(samples)
        elected = most_frequent(answers)
        return None if elected is None else samples[answers.index(elected)]

    def answers(self, samples: Sequence[Sample]) -> list[str | None]:
        """What each sample answers; None where it answers nothing."""
        assert isinstance(self.options, VotingOptions)
        return [answer_in(sample.text, self.options.after) for sample in samples]


def answer_in(text: str, after: str) -> str | None:
    """What a text answers, without white space around it: all of it, or what stands behind the last `after`.

    None where `after` is not in it. An empty answer counts as one: other texts may give it too.
    """
    if not after:
        return text.strip()
    return text.rpartition(after)[2].strip() if after in text else None


def most_frequent(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of equally frequent ones the first; None where there is none."""
    counts = Counter(answer for answer in answers if answer is not None)
    return counts.most_common(1)[0][0] if counts else None
