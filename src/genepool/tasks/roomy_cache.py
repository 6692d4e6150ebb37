"""Keys and values of rows that are being written: room is made for many tokens at once, and ended rows leave.

transformers' own cache copies all keys and values of a row for every token that it adds. Here a token is written into
room that is there, and the network gets a view. Imports transformers, so it is imported where rows are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# Tokens that room is made for at once: one copy for so many, and little memory that nothing is written to.
_ROOM = 64


def is_plain(cache: Any) -> bool:
    """Whether a cache holds keys and values alone, token by token: what a `RoomyCache` can hold instead."""
    return (
        isinstance(cache, DynamicCache)
        and hasattr(cache, "batch_select_indices")
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    )


def looks_at_all(cache: Any) -> bool:
    """Whether every layer of a plain cache looks at all tokens."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def begun_cache(shared: DynamicCache, late: Sequence[int]) -> DynamicCache:
    """The cache of rows that begin with what one row has read, each some places later and less of it.

    Args:
        shared: the cache of that row; every layer looks at all tokens.
        late: by how many places each row begins later.
    """
    made = DynamicCache()
    for layer in shared.layers:
        own = DynamicLayer()
        if layer.is_initialized:
            own.update(*(_begun(tokens, late) for tokens in (layer.keys, layer.values)))
        made.layers.append(own)
    return made


def _begun(tokens: torch.Tensor, late: Sequence[int]) -> torch.Tensor:
    """Tokens of one row, (1, heads, tokens, size), in several rows: behind places of zeros, the last ones left out."""
    if not any(late):
        return tokens.expand(len(late), *tokens.shape[1:])
    rows = tokens.new_zeros(len(late), *tokens.shape[1:])
    count = tokens.shape[-2]
    for row, places in zip(rows, late, strict=True):
        if places < count:
            row.narrow(-2, places, count - places).copy_(tokens[0].narrow(-2, 0, count - places))
    return rows


class _Room:
    """Keys or values of one layer.

    Args:
        like: some rows of them, (rows, heads, tokens, size).
        rows: how many rows there will be.
        used: tokens that every row begins with.
    """

    def __init__(self, like: torch.Tensor, rows: int, used: int) -> None:
        # Zeros, not whatever was there: a masked place has no weight, but nothing times NaN is NaN.
        self._all = like.new_zeros(rows, *like.shape[1:-2], used + _ROOM, like.shape[-1])
        self.used = used

    def put(self, rows: torch.Tensor, lines: torch.Tensor, tokens: torch.Tensor) -> None:
        """Fills the last places in use of some rows, each from a line of `tokens`."""
        kept = tokens.shape[-2]
        self._all.narrow(-2, self.used - kept, kept)[rows] = tokens[lines]

    def add(self, tokens: torch.Tensor) -> None:
        """Appends tokens to every row."""
        count = tokens.shape[-2]
        if self.used + count > self._all.shape[-2]:
            held = self.last(self.used)
            more = held.new_empty(*held.shape[:-2], max(_ROOM, count), held.shape[-1])
            self._all = torch.cat([held, more], -2)
        self._all.narrow(-2, self.used, count).copy_(tokens)
        self.used += count

    def last(self, count: int) -> torch.Tensor:
        """A view of the last tokens in use, at most `count`."""
        count = min(count, self.used)
        return self._all.narrow(-2, self.used - count, count)

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows but these."""
        self._all = self._all.index_select(0, rows)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that looks at all tokens.

    Args:
        like: the layer as some rows filled it.
        rows, width: as for `RoomyCache`.
    """

    def __init__(self, like: DynamicLayer, rows: int, width: int) -> None:
        DynamicLayer.__init__(self)
        self.dtype, self.device, self.is_initialized = like.keys.dtype, like.keys.device, True
        used = self._kept(width)
        self._rooms = _Room(like.keys, rows, used), _Room(like.values, rows, used)
        self._show()

    def _kept(self, width: int) -> int:
        """How many of the tokens before the next are looked at."""
        return width

    def _show(self) -> None:
        self.keys, self.values = (room.last(self._kept(room.used)) for room in self._rooms)

    def put(self, rows: torch.Tensor, lines: torch.Tensor, layer: DynamicLayer) -> None:
        """Fills some rows, each with a line of another cache's layer."""
        for room, tokens in zip(self._rooms, (layer.keys, layer.values), strict=True):
            room.put(rows, lines, tokens)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends tokens; returns what they look at, themselves included."""
        keys, values = self._rooms
        keys.add(key_states)
        values.add(value_states)
        self._show()
        seen = self._kept(keys.used - key_states.shape[-2]) + key_states.shape[-2]
        return keys.last(seen), values.last(seen)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows, in this order."""
        for room in self._rooms:
            room.keep(indices)
        self._show()


class RoomySlidingLayer(RoomyLayer, DynamicSlidingWindowLayer):  # type: ignore[misc]
    """A layer that looks at the last tokens of a window; earlier ones of the prompt are not held.

    Args:
        like, rows, width: as for `RoomyLayer`.
    """

    is_sliding = True

    def __init__(self, like: DynamicSlidingWindowLayer, rows: int, width: int) -> None:
        self.sliding_window, self.record_past = like.sliding_window, False
        RoomyLayer.__init__(self, like, rows, width)
        self.cumulative_length = width

    def _kept(self, width: int) -> int:
        return min(width, int(self.sliding_window) - 1)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `RoomyLayer.update`."""
        self.cumulative_length += key_states.shape[-2]
        return super().update(key_states, value_states)


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """The cache of a batch whose prompts were read in groups; rows end at the same place, shorter ones begin later.

    Args:
        like: the cache of some rows, which `is_plain`.
        rows: the batch's rows.
        width: tokens of the longest prompt.
    """

    def __init__(self, like: DynamicCache, rows: int, width: int) -> None:
        super().__init__()
        # A layer that uses another's keys and values holds none.
        self.layers = [_with_room(layer, rows, width) if layer.is_initialized else layer for layer in like.layers]

    def put(self, owners: Sequence[tuple[int, int]], part: DynamicCache) -> None:
        """Fills some rows with the cache that reading their prompts gave.

        Args:
            owners: (row here, line there).
            part: the other cache.
        """
        for own, layer in zip(self.layers, part.layers, strict=True):
            if isinstance(own, RoomyLayer):
                rows, lines = torch.tensor(owners, device=own.device).T
                own.put(rows, lines, layer)


def _with_room(layer: DynamicLayer, rows: int, width: int) -> RoomyLayer:
    kind = RoomySlidingLayer if isinstance(layer, DynamicSlidingWindowLayer) else RoomyLayer
    return kind(layer, rows, width)


def roomy(cache: Any) -> Any:
    """A plain cache with room for more tokens; any other cache as it is."""
    if not is_plain(cache) or not any(layer.is_initialized for layer in cache.layers):
        return cache
    rows = next(len(layer.keys) for layer in cache.layers if layer.is_initialized)
    made = RoomyCache(cache, rows, cache.get_seq_length())
    made.put([(row, row) for row in range(rows)], cache)
    return made
