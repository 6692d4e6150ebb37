"""Study files from before there was `vary`: the keys at the top that said what a study varies.

They are still read, and what decides a study is still recorded by them, so that a run that was begun then goes on. The
list is closed: a kind of genome that came later has no such keys. Uses the list of strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from genepool.evolution.strategies import StrategyEntry
from genepool.schema import Strict, validate_part

#: Every key, and what it was when it was left out.
DEFAULTS: dict[str, Any] = {
    "method": "",
    "parameters": {},
    "search": {},
    "breed": {"form": "auto"},
    "learn": None,
    "singular": {"largest": None, "low": 0.0, "high": 2.0},
}
_FORMS = {"auto": "models_or_adapters", "models": "whole_models", "adapters": "adapters"}


class Breed(Strict):
    """The key `breed`."""

    form: Literal["auto", "models", "adapters"] = Field(default="auto")


@dataclass(frozen=True)
class Translated:
    """What older keys say, as `vary` says it.

    Attributes:
        kind: what is varied.
        options: the options of the kind.
        key: the key below which they stand in the file; empty for the top.
    """

    kind: str
    options: dict[str, Any]
    key: str = ""


def recorded(**keys: Any) -> dict[str, Any]:
    """The part of a study's record that says what it varies: these keys, and what the others are when left out."""
    return {**DEFAULTS, **keys}


def translated(given: Mapping[str, Any], strategy: StrategyEntry) -> Translated:
    """What the older keys of a file say.

    Args:
        given: the keys that are there, and what they hold.
        strategy: the study's, which decided what was varied.

    Raises:
        ValueError: a key that says nothing for this strategy, or one that it needs.
    """
    if strategy.proposals == "births":
        _only(given, ("breed", "learn"), strategy, "models")
        form = validate_part(Breed, given.get("breed", {}), "breed").form
        return Translated(_FORMS[form], {"learn": given.get("learn")})
    if strategy.usual == "singular_values":
        _only(given, ("singular",), strategy, "singular values")
        return Translated("singular_values", given.get("singular", {}), "singular")
    _only(given, ("method", "parameters", "search"), strategy, "parameters")
    if not given.get("method"):
        raise ValueError(f"{strategy.name} searches merge parameters and needs a `method`")
    options = {key: given[key] for key in ("method", "parameters", "search") if key in given}
    return Translated("merge_parameters", {"search": {}, **options})


def _only(given: Mapping[str, Any], keys: tuple[str, ...], strategy: StrategyEntry, noun: str) -> None:
    """Refuses keys that would say nothing; one that says what it does when left out is let through."""
    for key, value in given.items():
        if key in keys or _as_left_out(key, value):
            continue
        if key == "learn":
            raise ValueError(f"{strategy.name} varies {noun}; only what is bred can `learn`")
        raise ValueError(f"{strategy.name} varies {noun}: leave `{key}` out")


def _as_left_out(key: str, value: Any) -> bool:
    default = DEFAULTS[key]
    filled = {**default, **value} if isinstance(value, dict) and isinstance(default, dict) else value
    return bool(filled == default)
