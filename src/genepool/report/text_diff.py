"""Two answers side by side, with what differs marked: by words where they have several, else by characters.

Texts come from models: everything is escaped. Uses difflib; the pages use it.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from markupsafe import Markup

from genepool.report.svg import element, joined

# difflib compares every piece with every other; texts beyond this are shown unmarked.
_MOST_PIECES = 400
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def marked(text: str, other: str) -> Markup:
    """`text`, with the parts that `other` has not in the same place in `<mark>`.

    Args:
        text: what is shown.
        other: what it is held against.
    """
    mine, theirs = _pieces(text), _pieces(other)
    if len(mine) < 2 or len(theirs) < 2:
        mine, theirs = list(text), list(other)
    if not mine or not theirs or len(mine) > _MOST_PIECES or len(theirs) > _MOST_PIECES:
        return joined([text])
    parts: list[str | Markup] = []
    for kind, first, last, _, _ in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        piece = "".join(mine[first:last])
        if piece:
            parts.append(piece if kind == "equal" else element("mark", piece))
    return joined(parts)


def _pieces(text: str) -> list[str]:
    return _WORDS.findall(text)
