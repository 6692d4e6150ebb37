"""The task's own metric as a reward."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.tasks.metrics import find_metric
from genepool.training.rewards import FAILED, Reward
from genepool.training.samples import Sample


class MetricReward(Reward):
    """The score from 0 to 1 that the metric of the task gives to an answer; its plugins too."""

    name = "metric"
    source = "verifiable rewards: Lambert et al., Tulu 3, arXiv:2411.15124"
    reads_answers = True
    when = "the right answer is known or can be checked"

    def score(self, samples: Sequence[Sample]) -> list[float]:
        found, errors = [], []
        for sample in samples:
            try:
                found.append(judged(sample))
            except Exception as error:
                found.append(FAILED)
                errors.append(error)
        if len(errors) == len(samples):
            raise errors[0]
        return found


def judged(sample: Sample) -> float:
    """What the metric of a sample's task says of it, from 0 to 1.

    Raises:
        InputError: the metric is a plugin that fails.
    """
    settings = sample.lesson.task.settings
    return find_metric(settings.metric).score(sample.text, sample.lesson.example, settings.strip)
