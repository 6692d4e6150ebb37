"""What the commands of `genepool measure` share: NAME=VALUE options, and how numbers are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genepool.measure import Difference, Interval


def pairs_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping.

    Raises:
        InputError: one has no "=", or a name is given twice.
    """
    from genepool.errors import InputError

    found: dict[str, str] = {}
    for one in given or ():
        name, equals, value = one.rpartition("=")
        if not equals or not name or not value:
            raise InputError(f"got '{one}', expected NAME=VALUE", where=option, fix="Write it like base+lora=reverse")
        if name in found:
            raise InputError(f"'{name}' is given twice", where=option, fix="Give it once")
        found[name] = value
    return found


def interval(found: Interval | None) -> str:
    """A mean over its interval, in two lines; a dash where there is none."""
    return "–" if found is None else f"{found.mean:.3f}\n{found.lo:.2f} {found.hi:.2f}"


def difference(found: Difference | None) -> str:
    """A difference over its interval, in two lines; a dash where there is none."""
    return "–" if found is None else f"{found.difference:+.3f}\n{found.lo:+.2f} {found.hi:+.2f}"


def number(found: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if found is None else f"{found:+.3f}"
