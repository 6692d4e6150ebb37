"""Tasks that a Python function judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from genepool.errors import InputError
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.reading import example_from
from genepool.tasks.task import Task

if TYPE_CHECKING:
    from genepool.tasks.models import Model

# A callable task: gets the model and one example, gives a score from 0 to 1, or (score, what the model said).
Scorer = Callable[["Model", "Example"], "float | tuple[float, str]"]


def callable_task(
    name: str, scorer: Scorer, examples: Sequence[Example] | Sequence[Mapping[str, Any]], *, version: str = "1"
) -> Task:
    """A task judged by a Python function.

    Args:
        name: the task's name.
        scorer: gets (model, example), gives a score from 0 to 1, or (score, text).
        examples: examples, or mappings with id, prompt and answer.
        version: change it when the function changes, so that old outcomes are not taken for new ones.
    """
    made = [
        item if isinstance(item, Example) else example_from(item, f"{name}[{i}]") for i, item in enumerate(examples)
    ]
    if not made:
        raise InputError("the task has no examples", where=name, fix="Give at least one")

    def ask(model: Model, asked: Sequence[Example], _batch_size: int) -> list[Outcome]:
        return [_scored(scorer, name, model, example) for example in asked]

    return Task(name, {"all": made}, asker=ask, version=version)


def _scored(scorer: Scorer, name: str, model: Model, example: Example) -> Outcome:
    result = scorer(model, example)
    score: Any
    score, output = result if isinstance(result, tuple) else (result, None)
    # numpy's and torch's numbers are welcome; text is none, even where it could be read as one.
    if isinstance(score, str) or not isinstance(score, SupportsFloat) or not 0 <= float(score) <= 1:
        raise InputError(
            f"got the score {score!r}, expected a number from 0 to 1",
            where=example.place(name),
            fix="Correct the function of the task",
        )
    return Outcome(float(score), output)
