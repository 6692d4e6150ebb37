"""GitHub's Markdown, written so that no name or text of a model can become markup.

Uses nothing but the standard library; the pages' Markdown forms are written with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def plain(text: str) -> str:
    """Text that cannot leave its line or cell, nor become markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~&!" else letter for letter in flat)


def line(*cells: str) -> str:
    """One row of a table, its cells made plain."""
    return f"| {' | '.join(plain(cell) for cell in cells)} |"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> list[str]:
    """A table as lines, an empty one behind it.

    Args:
        heads: column headings.
        rows: the cells.
        texts: so many columns from the left are aligned left, the others right.
    """
    rule = "".join("|---" if i < texts else "|--:" for i in range(len(heads)))
    return [line(*heads), f"{rule}|", *(line(*row) for row in rows), ""]


def fenced(text: str, language: str = "") -> list[str]:
    """A block of code as lines; its fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{language}", *text.rstrip("\n").split("\n"), fence, ""]
