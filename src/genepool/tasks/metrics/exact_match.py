"""The metric `exact_match`."""

from genepool.tasks.example import Example
from genepool.tasks.metrics import metric


@metric("1", equality=True)
def exact_match(output: str, example: Example, strip: bool) -> float:
    """1 when the output is one of the answers."""
    if strip:
        return float(output.strip() in {answer.strip() for answer in example.answers})
    return float(output in example.answers)
