"""Values out of files that somebody else may have written, checked where they enter: of the right kind, within range.

SQLite keeps any type in any column and JSON any value under any key, so neither a column nor a key says what it holds.
Nothing is converted here: a value is what it should be, or it is not.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, TypeGuard

_HEX = frozenset("0123456789abcdef")
# Of a number in JSON, and of an integer in SQLite.
_LARGEST = 2**63 - 1


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> TypeGuard[float]:
    """Whether it is a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int) and abs(value) > _LARGEST:
        return False
    return math.isfinite(value) and low <= value <= high


def is_whole(value: object, low: int = -_LARGEST - 1, high: int = _LARGEST) -> TypeGuard[int]:
    """Whether it is an integer from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that can be written as UTF-8: the halves of a surrogate pair cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_line(value: object, most: int = 2**20) -> TypeGuard[str]:
    """Whether it is text that stays on its line of a terminal: no control characters, no line separators."""
    if not isinstance(value, str) or len(value) > most:
        return False
    # What is printable holds neither control characters nor halves of surrogate pairs.
    return value.isprintable() or (
        is_text(value) and all(unicodedata.category(one) not in ("Cc", "Zl", "Zp") for one in value)
    )


def printable(text: str) -> str:
    """The text with escapes in place of what would act on a terminal; a stranger's name may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def is_digest(value: object) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def parsed_json(text: object, *, unique: bool = False) -> Any:
    """What a column or a line of JSON holds.

    Args:
        text: the JSON.
        unique: refuse a key that stands twice, of which the last would count; for what people write.

    Raises:
        ValueError: it is not text, not JSON, holds NaN or infinity, or is nested too deeply.
    """
    if not isinstance(text, str):
        raise ValueError(f"got {kind_of(text)}, expected JSON")
    try:
        return json.loads(text, parse_constant=_refused, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r:.60} stands twice")
        found[key] = value
    return found


def numbers(value: object, low: float = -math.inf, high: float = math.inf) -> dict[str, float]:
    """A mapping of names to finite numbers from `low` to `high`.

    Raises:
        ValueError: it is something else; the name and the value are told.
    """
    if not isinstance(value, dict):
        raise ValueError(f"got {kind_of(value)}, expected names with numbers")
    for name, number in value.items():
        if not is_line(name):
            raise ValueError(f"got the name {name!r:.60}")
        if not is_number(number, low, high):
            raise ValueError(f"got {number!r:.60} for {name}")
    return value


def kind_of(value: object) -> str:
    """What a value is, in words for people."""
    kinds = {type(None): "nothing", bytes: "binary data", str: "text", bool: "true or false", list: "a list"}
    return kinds.get(type(value), "a mapping" if isinstance(value, dict) else "a number")


def _refused(constant: str) -> Any:
    raise ValueError(f"holds {constant}")


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two pieces of plain data, one clause per key."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path} was {_short(old)} and is {_short(new)}"]


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else json.dumps(value)
