"""The metric `multiple_choice`: 1 when the choice whose continuation is likeliest is an answer."""

from __future__ import annotations

from genepool.tasks.example import Example
from genepool.tasks.metrics import Metric, register


def _wrong(example: Example) -> tuple[str, str] | None:
    if len(set(example.choices)) < 2:
        return "multiple_choice needs `choices`, two at least", "Add them"
    return None


register(Metric("multiple_choice", "1", needs="choices", wrong=_wrong))
