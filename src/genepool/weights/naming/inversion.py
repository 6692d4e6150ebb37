"""Turns views round: from what memory is made of in a file, to what the file is made of in memory.

A conversion only moves entries, so it can be undone by following each view back to where it came from. Used to write
the layout of one file from the tensors of another.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping

from genepool.weights.naming.boxes import Box
from genepool.weights.naming.views import (
    Cut,
    Joined,
    Leaf,
    Permuted,
    Reshaped,
    View,
    cut,
    joined,
    permuted,
    reshaped,
)


def inverted(views: Mapping[str, View]) -> dict[str, View]:
    """The leaves of some views, as views of them.

    Args:
        views: name -> what it is made of.

    Returns:
        For every leaf, what it is made of; its leaves are the names. Where several views hold the same entries, the
        first is taken; entries that none holds are zero.
    """
    return _Inversion().run(views)


class _Inversion:
    def __init__(self) -> None:
        # What is known of a view, box by box; the outermost come first, because they tell of those inside.
        self._known: dict[View, dict[Box, View]] = {}
        self._waiting: list[tuple[int, int, View]] = []
        self._count = itertools.count()

    def run(self, views: Mapping[str, View]) -> dict[str, View]:
        for name, view in views.items():
            self._follow(view, Leaf(name, view.shape))
        found: dict[str, View] = {}
        while self._waiting:
            _, _, view = heapq.heappop(self._waiting)
            made = joined(view.shape, list(self._known[view].items()))
            if isinstance(view, Leaf):
                found[view.name] = made
            else:
                assert isinstance(view, Reshaped)
                self._follow(view.inner, reshaped(made, view.inner.shape))
        return found

    def _follow(self, view: View, made: View) -> None:
        """`made` has the entries of `view`."""
        if isinstance(view, Joined):
            for box, piece in view.pieces:
                self._follow(piece, cut(made, box))
        elif isinstance(view, Permuted):
            back = tuple(view.order.index(axis) for axis in range(len(view.order)))
            self._follow(view.inner, permuted(made, back))
        elif isinstance(view, Cut):
            self._keep(view.inner, view.box, made)
        elif isinstance(view, Reshaped):
            self._follow(view.inner, reshaped(made, view.inner.shape))
        else:
            self._keep(view, view.full, made)

    def _keep(self, view: View, box: Box, made: View) -> None:
        if view not in self._known:
            self._known[view] = {}
            heapq.heappush(self._waiting, (-_depth(view), next(self._count), view))
        self._known[view].setdefault(box, made)


def _depth(view: View) -> int:
    if isinstance(view, Joined):
        return 1 + max((_depth(piece) for _, piece in view.pieces), default=0)
    return 1 + _depth(view.inner) if isinstance(view, Cut | Permuted | Reshaped) else 0
