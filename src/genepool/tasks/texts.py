"""Plain text as examples: what a model reads on from nothing, in windows that fit its context.

`reading` asks this of every line that holds a `text`, and of .txt files. A window is an example with an empty prompt,
whose answer is the text. Windows are cut by characters, so that they are the same examples for every model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genepool.errors import InputError

#: The ending of files that are one text.
TEXT_ENDING = ".txt"


def windows(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters, which together are the text.

    A piece ends before the last blank line in its second half, else before the last white space there, else anywhere.
    """
    start = 0
    while len(text) - start > size:
        middle, end = start + size // 2, start + size
        # One more is looked at: a piece may end just before white space.
        blank = text.rfind("\n\n", middle + 1, end + 1)
        cut = blank if blank > 0 else next((at for at in range(end, middle, -1) if text[at].isspace()), end)
        yield text[start:cut]
        start = cut
    yield text[start:]


def text_rows(data: Any, size: int, identity: str, where: str) -> list[Any]:
    """A line that holds a text as lines with a prompt and an answer, one for each window; any other line as it is.

    Args:
        data: the line, under our own keys.
        size: characters in a window, at most.
        identity: what it is called where it has no `id`.
        where: file and line, for errors.

    Raises:
        InputError: the text is none, or has a prompt or an answer beside it.
    """
    if not isinstance(data, Mapping) or "text" not in data:
        return [data]
    also = next((key for key in data if key not in ("text", "id", "tags")), None)
    if also is not None:
        raise InputError(f"has both `text` and `{also}`", where=where, fix="Leave one of them out")
    text = data["text"]
    if not isinstance(text, str) or not text.strip():
        raise InputError("`text` must be text that is not empty", where=where, fix="Write it, or remove the line")
    parts = [part for part in windows(text, size) if part.strip()]
    rest = {key: value for key, value in data.items() if key != "text"}
    if len(parts) == 1:
        return [{**rest, "prompt": "", "answer": parts[0]}]
    named = rest.get("id", identity)
    return [
        {**rest, "id": f"{named}, part {number}", "prompt": "", "answer": part} for number, part in enumerate(parts, 1)
    ]
