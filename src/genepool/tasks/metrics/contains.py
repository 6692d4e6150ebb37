"""The metric `contains`."""

from genepool.tasks.example import Example
from genepool.tasks.metrics import metric, something_to_find


@metric("1", within=True, wrong=something_to_find)
def contains(output: str, example: Example, strip: bool) -> float:
    """1 when one of the answers stands somewhere in the output."""
    return float(any((answer.strip() if strip else answer) in output for answer in example.answers))
