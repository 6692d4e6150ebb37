"""The metric `countdown`."""

from __future__ import annotations

import re
from collections import Counter

from genepool.tasks.example import Example
from genepool.tasks.metrics import metric

# Longer numbers are no arithmetic that people ask for.
_NUMBER = re.compile(r"\d{1,9}")
_STEP = re.compile(r"\s*(\d{1,9})\s*([-+*/])\s*(\d{1,9})\s*=\s*(\d{1,9})\s*")
_MOST = 64


def _numbers(example: Example) -> list[int]:
    return [int(found) for found in _NUMBER.findall(example.prompt)]


def _wrong(example: Example) -> tuple[str, str] | None:
    count = len(_numbers(example))
    if not 3 <= count <= _MOST:
        return (
            f"its prompt holds {count} numbers, expected from 3 to {_MOST}",
            "Write the numbers to use and then the target, such as `3 5 7>22:`",
        )
    return None


@metric("1", from_prompt=True, wrong=_wrong)
def countdown(output: str, example: Example, strip: bool) -> float:  # noqa: ARG001
    """1 when the output derives the last number of the prompt from the others, each used at most once.

    A step is `3*5=15`; `;` or a line end separates steps, and later steps may use earlier results: `3*5=15;15+7=22`.
    """
    *given, target = _numbers(example)
    left = Counter(given)
    steps = re.split(r"[;\n]", output.strip())
    if len(steps) >= len(given) or not all(steps):
        return 0.0
    result = None
    for step in steps:
        found = _STEP.fullmatch(step)
        if found is None:
            return 0.0
        first, second, result = (int(found[place]) for place in (1, 3, 4))
        left.subtract((first, second))
        if min(left[first], left[second]) < 0 or not _is_right(first, found[2], second, result):
            return 0.0
        left[result] += 1
    return float(result == target)


def _is_right(first: int, operator: str, second: int, result: int) -> bool:
    if operator == "/":
        return second > 0 and first == second * result
    return {"+": first + second, "-": first - second, "*": first * second}[operator] == result
