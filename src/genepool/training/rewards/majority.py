"""Agreement with the most frequent answer as a reward: no right answer is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from genepool.training.rewards import Reward
from genepool.training.samples import Sample


class MajorityReward(Reward):
    """1 for the answer that most samples of the prompt give, 0 for every other.

    White space around an answer does not count. Of equally frequent answers it is the one that was drawn first.
    """

    name = "majority"
    source = "Zuo et al., TTRL: Test-Time Reinforcement Learning, arXiv:2504.16084"
    when = "right answers are not known and the model is mostly right: refused where maj@k is below 0.5"
    follows_majority = True

    def score(self, samples: Sequence[Sample]) -> list[float]:
        chosen = most_frequent(samples).text.strip()
        return [float(sample.text.strip() == chosen) for sample in samples]


def most_frequent(samples: Sequence[Sample]) -> Sample:
    """The first sample of the most frequent answer."""
    counts = Counter(sample.text.strip() for sample in samples)
    (text, _), *_ = counts.most_common(1)
    return next(sample for sample in samples if sample.text.strip() == text)
