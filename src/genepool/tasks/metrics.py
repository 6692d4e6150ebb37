"""How an answer becomes a score. Adding a metric is one entry here; a changed one gets a new version number."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from genepool.tasks.example import Example


@dataclass(frozen=True)
class Metric:
    """One way to judge.

    Attributes:
        version: part of how an outcome is kept: outcomes of another version are never mixed in.
        judge: (what the model wrote, example, strip) -> score from 0 to 1. None for metrics that read likelihoods.
        within: it looks for something within what was written, so that right answers need not be alike.
    """

    version: str
    judge: Callable[[str, Example, bool], float] | None
    within: bool = False


def exact_match(output: str, example: Example, strip: bool) -> float:
    """1 when the output is one of the answers."""
    if strip:
        return float(output.strip() in {answer.strip() for answer in example.answers})
    return float(output in example.answers)


def contains(output: str, example: Example, strip: bool) -> float:
    """1 when one of the answers stands somewhere in the output."""
    return float(any((answer.strip() if strip else answer) in output for answer in example.answers))


def regex(output: str, example: Example, strip: bool) -> float:
    """1 when one of the answers, taken as a regular expression, is found in the output."""
    text = output.strip() if strip else output
    return float(any(re.search(pattern, text) for pattern in example.answers))


METRICS = {
    "exact_match": Metric("1", exact_match),
    "contains": Metric("1", contains, within=True),
    "regex": Metric("1", regex, within=True),
    "multiple_choice": Metric("1", None),
}
