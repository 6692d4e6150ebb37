"""What the command line says on when to end, put into a study."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import InputError, nearest
from genepool.evolution.study import SearchBudget, Stop, Study
from genepool.schema import validate

_KEYS = {"target": "stop", "stall": "stop", "evaluations": "budget", "minutes": "budget"}


def with_stops(study: Study, wanted: Sequence[str]) -> Study:
    """The study with other ends.

    Args:
        study: the study.
        wanted: "key=number" each, or several with commas: target, stall, evaluations, minutes.

    Raises:
        InputError: an unknown key, or a value that is out of range or no number.
    """
    changes: dict[str, dict[str, float]] = {"stop": {}, "budget": {}}
    for part in (part.strip() for text in wanted for part in text.split(",")):
        key, equals, value = part.partition("=")
        if key not in _KEYS:
            raise InputError(f"got '{key}', expected a known condition", where="--stop-when", fix=nearest(key, _KEYS))
        try:
            number = float(value)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals:
            raise InputError(
                f"got '{part}', expected {key}=NUMBER",
                where="--stop-when",
                fix=f"Write {key}={0.9 if key == 'target' else 10}, for example",
            )
        changes[_KEYS[key]][key] = int(number) if number.is_integer() and key != "target" else number
    update: dict[str, Stop | SearchBudget] = {}
    if changes["stop"]:
        update["stop"] = validate(Stop, {**study.stop.model_dump(), **changes["stop"]}, "--stop-when")
    if changes["budget"]:
        update["budget"] = validate(SearchBudget, {**study.budget.model_dump(), **changes["budget"]}, "--stop-when")
    return study.model_copy(update=update)
