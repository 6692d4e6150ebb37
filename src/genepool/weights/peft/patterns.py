"""Regular expressions out of an adapter's config: which of them Python may search through for ever.

Python tries every way in which the repeats of a pattern can share a name. A repeat within a repeat makes those
exponentially many; several beside each other multiply them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

LONGEST = 1000
# Names of modules are rarely longer; PEFT's own patterns and those of training tools have up to three repeats.
_NAME = 64
_MOST_WAYS = 10_000_000
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


@lru_cache(maxsize=1024)
def unbounded(pattern: str) -> str:
    r"""Why a pattern is not searched for, in a clause; empty where it is.

    >>> unbounded(r".*\.(q_proj|v_proj)")
    ''
    >>> unbounded("(a+)+b")
    'repeats what repeats within'

    Raises:
        re.error: it is no regular expression.
    """
    if len(pattern) > LONGEST:
        return f"has {len(pattern)} characters, expected at most {LONGEST}"
    parser: Any = vars(re)["_parser"]
    try:
        repeats, choices = _sequence(parser.parse(pattern), inside=False)
    except _NestedError:
        return "repeats what repeats within"
    # Repeats in a row share a name in as many ways as places can be chosen for their ends, in order.
    ways = choices * math.comb(_NAME + repeats, repeats)
    return "has too many repeats and choices beside each other" if ways > _MOST_WAYS else ""


class _NestedError(Exception):
    """A repeat has another within, or a choice that more than one alternative can be taken of."""


def _sequence(items: Iterable[Any], inside: bool) -> tuple[int, int]:
    """Open repeats that stand beside each other, and the ways to take everything else.

    Args:
        items: parsed parts, one after the other.
        inside: whether they stand in a repeat.

    Raises:
        _NestedError: they do, and repeat.
    """
    repeats, choices = 0, 1
    for operation, value in items:
        if str(operation) in _REPEATS:
            least, most, body = value
            if inside and least != most:
                raise _NestedError
            repeats += most - least > 1
            choices *= 2 if most - least == 1 else 1
            found = _sequence(body, inside or most > 1)
        elif str(operation) == "BRANCH":
            found = _alternatives(value[1], inside)
        else:
            found = _parts(value, inside)
        repeats, choices = repeats + found[0], choices * found[1]
    return repeats, choices


def _alternatives(branches: Sequence[Any], inside: bool) -> tuple[int, int]:
    """The same of alternatives, of which a name takes one; several where they begin alike."""
    together = max(sum(_can_both(one, other) for other in branches) for one in branches)
    if inside and together > 1:
        raise _NestedError
    found = [_sequence(one, inside) for one in branches]
    return max(repeats for repeats, _ in found), together * max(choices for _, choices in found)


def _can_both(one: Any, other: Any) -> bool:
    """Whether two alternatives may match at one place; literal ones do where one begins with the other."""
    return all(
        first == second or not str(first[0]) == str(second[0]) == "LITERAL"
        for first, second in zip(one, other, strict=False)
    )


def _parts(value: Any, inside: bool) -> tuple[int, int]:
    """The same of groups, conditions and assertions, wherever the parser puts their parts."""
    if type(value).__name__ == "SubPattern":
        return _sequence(value, inside)
    found = [_parts(one, inside) for one in value] if isinstance(value, tuple) else []
    return sum(repeats for repeats, _ in found), math.prod(choices for _, choices in found)
