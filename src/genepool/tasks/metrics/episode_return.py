"""The metric `episode_return`: the return of an episode, on the scale from one declared bound to the other."""

from __future__ import annotations

from genepool.tasks.example import Example
from genepool.tasks.metrics import Metric, register


def _wrong(example: Example) -> tuple[str, str] | None:
    if example.episode is None:
        return "names no environment, which the metric episode_return needs", 'Write {"environment": "cart_pole"}'
    return None


register(Metric("episode_return", "1", needs="episode", answers_are_texts=False, wrong=_wrong))
