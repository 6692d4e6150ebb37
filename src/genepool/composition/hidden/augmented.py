"""An anchor that reads beside an augmenting model and attends to its layers: CALM.

Uses `cross_attention` and the readers of `logits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from genepool.composition.hidden.cross_attention import Connection, Projected, seen_places
from genepool.composition.logits.readers import Reader, ReadingState, ReadTokens, TokenReader
from genepool.composition.steering.layers import edited


class _Beside(ReadingState):
    """What both models remember, and the keys and values of every connection."""

    def __init__(self, anchor: ReadingState, augmenting: ReadingState, projected: Sequence[Projected]) -> None:
        self.anchor, self.augmenting, self.projected, self.rows = anchor, augmenting, list(projected), anchor.rows

    def reorder(self, rows: torch.Tensor) -> None:
        self.anchor.reorder(rows)
        self.augmenting.reorder(rows)
        own = [rows.to(keys.device) for keys, _ in self.projected]
        self.projected = [(k[at], v[at]) for (k, v), at in zip(self.projected, own, strict=True)]
        self.rows = len(rows)

    def crop(self, tokens: int) -> None:
        self.anchor.crop(tokens)
        self.augmenting.crop(tokens)
        if tokens:
            self.projected = [(k[:, :, :-tokens], v[:, :, :-tokens]) for k, v in self.projected]


class AugmentedReader(Reader):
    """An anchor whose layers attend to those of an augmenting model.

    Both read the same tokens, so a place of one is the same place of the other, and a place sees the places up to its
    own. What a connection made of a place is kept, so that a new token is projected alone.

    Args:
        anchor: predicts.
        augmenting: reads the same tokens.
        layers: the layers of both.
        connections: one a connected layer.
        places: of each connection, the numbers of the anchor's and of the augmenting model's layer.
    """

    def __init__(
        self,
        anchor: TokenReader,
        augmenting: TokenReader,
        layers: tuple[Sequence[nn.Module], Sequence[nn.Module]],
        connections: Sequence[Connection],
        places: Sequence[tuple[int, int]],
    ) -> None:
        self.network, self._anchor, self._augmenting = anchor.network, anchor, augmenting
        self._layers, self._connections = layers, tuple(connections)
        self._of_anchor = {own: number for number, (own, _) in enumerate(places)}
        self._of_augmenting = [other for _, other in places]

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`."""
        found, beside = self._other_states(tokens, None if state is None else state.augmenting, remember)
        projected = [one.projected(found[at]) for one, at in zip(self._connections, self._of_augmenting, strict=True)]
        if state is not None:
            projected = [
                (torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2))
                for (keys, values), (new_keys, new_values) in zip(state.projected, projected, strict=True)
            ]
        seen = seen_places(tokens.mask, tokens.ids.shape[1])

        def connect(number: int, states: torch.Tensor) -> torch.Tensor:
            at = self._of_anchor.get(number)
            return states if at is None else self._connections[at](states, projected[at], seen)

        with edited(self._layers[0], connect):
            logits, own = self._anchor.read(tokens, None if state is None else state.anchor, keep, remember)
        return logits, _Beside(own, beside, projected)

    def _other_states(
        self, tokens: ReadTokens, state: Any, remember: bool
    ) -> tuple[dict[int, torch.Tensor], ReadingState]:
        """What the augmenting model's layers give for new tokens, by number, and what it remembers."""
        found: dict[int, torch.Tensor] = {}

        def look(number: int, states: torch.Tensor) -> torch.Tensor:
            found[number] = states
            return states

        # It is frozen, and nothing of what is trained stands before it.
        with torch.no_grad(), edited(self._layers[1], look):
            _, after = self._augmenting.read(tokens, state, 1, remember)
        return found, after
