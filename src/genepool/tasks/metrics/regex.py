"""The metric `regex`."""

from __future__ import annotations

import re

from genepool.bounded import bounded
from genepool.tasks.example import Example
from genepool.tasks.metrics import metric, something_to_find


def _wrong(example: Example) -> tuple[str, str] | None:
    for pattern in example.answers:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return f"not a regular expression ({error})", "Correct it"
    return something_to_find(example)


@metric("1", within=True, answers_are_texts=False, wrong=_wrong)
def regex(output: str, example: Example, strip: bool) -> float:
    """1 when one of the answers, taken as a regular expression, is found in the output."""
    text = output.strip() if strip else output
    with bounded("the regular expression", where=example.where or example.id, fix="Write a simpler one"):
        return float(any(re.search(pattern, text) for pattern in example.answers))
