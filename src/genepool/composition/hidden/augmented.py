"""An anchor that reads beside an augmenting model and attends to its layers: CALM.

Uses `cross_attention`, and `augmenting` for what the other model reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from genepool.composition.hidden.augmenting import Augmenting
from genepool.composition.hidden.cross_attention import Connection, Projected
from genepool.composition.logits.readers import Reader, ReadingState, ReadTokens, TokenReader
from genepool.composition.steering.layers import edited


class _Beside(ReadingState):
    """What both models remember, and the keys and values of every connection.

    Args:
        anchor, augmenting: what the models remember.
        projected: keys and values of every connection.
        alike: a place of the augmenting model is a place of the anchor, and is forgotten with it.
    """

    def __init__(
        self, anchor: ReadingState, augmenting: ReadingState, projected: Sequence[Projected], *, alike: bool
    ) -> None:
        self.anchor, self.augmenting, self.projected, self.rows = anchor, augmenting, list(projected), anchor.rows
        self._alike = alike

    def reorder(self, rows: torch.Tensor) -> None:
        self.anchor.reorder(rows)
        self.augmenting.reorder(rows)
        own = [rows.to(keys.device) for keys, _ in self.projected]
        self.projected = [(k[at], v[at]) for (k, v), at in zip(self.projected, own, strict=True)]
        self.rows = len(rows)

    def crop(self, tokens: int) -> None:
        self.anchor.crop(tokens)
        self.augmenting.crop(tokens)
        if tokens and self._alike:
            self.projected = [(k[:, :, :-tokens], v[:, :, :-tokens]) for k, v in self.projected]


class AugmentedReader(Reader):
    """An anchor whose layers attend to those of an augmenting model.

    A place of the anchor sees what the augmenting model read of the text up to there. What a connection made of a place
    is kept, so that what is new is projected alone.

    Args:
        anchor: predicts.
        augmenting: reads the same text.
        layers: of the anchor.
        connections: one a connected layer.
        places: of each connection, the numbers of the anchor's and of the augmenting model's layer.
    """

    def __init__(
        self,
        anchor: TokenReader,
        augmenting: Augmenting,
        layers: Sequence[nn.Module],
        connections: Sequence[Connection],
        places: Sequence[tuple[int, int]],
    ) -> None:
        self.network, self._anchor, self._augmenting = anchor.network, anchor, augmenting
        self._layers, self._connections = layers, tuple(connections)
        self._of_anchor = {own: number for number, (own, _) in enumerate(places)}
        self._of_augmenting = [other for _, other in places]

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`."""
        found, seen, beside = self._augmenting.read(tokens, None if state is None else state.augmenting, remember)
        projected = [one.projected(found[at]) for one, at in zip(self._connections, self._of_augmenting, strict=True)]
        if state is not None:
            projected = [
                (torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2))
                for (keys, values), (new_keys, new_values) in zip(state.projected, projected, strict=True)
            ]

        def connect(number: int, states: torch.Tensor) -> torch.Tensor:
            at = self._of_anchor.get(number)
            return states if at is None else self._connections[at](states, projected[at], seen)

        with edited(self._layers, connect):
            logits, own = self._anchor.read(tokens, None if state is None else state.anchor, keep, remember)
        return logits, _Beside(own, beside, projected, alike=self._augmenting.alike)
