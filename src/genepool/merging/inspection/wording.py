"""How tables and the page write an inspection: short names for models whose full names are paths, and numbers."""

from __future__ import annotations

from collections.abc import Sequence

DASH = "–"
_MINUS = "−"


def short_labels(names: Sequence[str]) -> list[str]:
    """The shortest endings of the names, whole steps of their paths, that still tell them apart.

    "bed/full/sort" and "bed/full/upper" become "sort" and "upper"; of BASE+ADAPTER only the adapter is kept where
    that is enough: "bed/base+bed/lora/sort" beside "bed/full/sort" becomes "lora/sort".
    """
    steps = [[piece.rstrip("/").split("/") for piece in name.split("+")] for name in names]
    additions = [pieces[1:] or pieces for pieces in steps]
    for candidates in (additions, steps):
        for depth in range(1, max((len(piece) for pieces in candidates for piece in pieces), default=0) + 1):
            labels = ["+".join("/".join(piece[-depth:]) for piece in pieces) for pieces in candidates]
            if len(set(labels)) == len(names) and all(labels):
                return labels
    return list(names)


def relative_text(value: float | None) -> str:
    """A relative norm in percent, three digits: 0.0308 is "3.08%"; a dash when there is none."""
    if value is None:
        return DASH
    return f"{100 * value:#.3g}".rstrip(".") + "%" if value else "0%"


def cosine_text(value: float | None) -> str:
    """A cosine with three decimals; a dash when there is none."""
    # The z drops the sign of what rounds to zero.
    return DASH if value is None else f"{value:z.3f}".replace("-", _MINUS)


def share_text(value: float | None) -> str:
    """A share in percent, one decimal; a dash when there is none."""
    return DASH if value is None else f"{100 * value:.1f}%"


def rank_text(value: float | None) -> str:
    """An effective rank, one decimal; a dash when there is none."""
    return DASH if value is None else f"{value:.1f}"
