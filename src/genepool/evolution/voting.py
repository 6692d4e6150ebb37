"""Which tasks several models can answer together, and what most of them say (GENOME+'s ensemble)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from genepool.tasks import Task


def majority(answers: Sequence[Sequence[str]], scores: Sequence[Sequence[float]]) -> np.ndarray:
    """The scores of a majority vote, shape (examples,).

    Args:
        answers: per member what it answered, per example; white space around an answer does not count.
        scores: per member its scores. Where as many give one answer as another, the earlier member's stands.
    """
    import numpy as np

    won = []
    for given, earned in zip(zip(*answers, strict=True), zip(*scores, strict=True), strict=True):
        votes = Counter(answer.strip() for answer in given)
        # Of equal counts, the one seen first comes first.
        leading = votes.most_common(1)[0][0]
        won.append(next(score for answer, score in zip(given, earned, strict=True) if answer.strip() == leading))
    return np.array(won, dtype=np.float64)


def can_vote(task: Task) -> bool:
    """Whether right answers to it are alike, so that a majority can agree on one."""
    from genepool.tasks.metrics import find_metric

    return not find_metric(task.settings.metric).within
