"""Several models that read the same tokens as streams that take of each other: X-Cross. Uses `lockstep` and readers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from genepool.composition.hidden.lockstep import in_lockstep
from genepool.composition.hidden.stream_gates import StreamGates
from genepool.composition.logits.readers import Reader, ReadingState, ReadTokens, TokenReader


class _Streams(ReadingState):
    """What every model remembers."""

    def __init__(self, parts: Sequence[ReadingState]) -> None:
        self.parts, self.rows = tuple(parts), parts[0].rows

    def reorder(self, rows: torch.Tensor) -> None:
        for part in self.parts:
            part.reorder(rows)
        self.rows = len(rows)

    def crop(self, tokens: int) -> None:
        for part in self.parts:
            part.crop(tokens)


class CrossedReader(Reader):
    """Streams and their gates.

    Args:
        sources: each reads the same tokens.
        layers: of each, as many as of the others.
        gates: what they take of each other.
    """

    def __init__(
        self, sources: Sequence[TokenReader], layers: Sequence[Sequence[nn.Module]], gates: StreamGates
    ) -> None:
        self.network, self._sources, self._layers, self._gates = sources[0].network, tuple(sources), layers, gates

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`."""
        before = [None] * len(self._sources) if state is None else state.parts
        calls = [
            partial(source.read, tokens, part, keep, remember)
            for source, part in zip(self._sources, before, strict=True)
        ]
        read = in_lockstep(calls, self._layers, self._gates.exchanged)
        return self._gates.averaged([logits for logits, _ in read]), _Streams([part for _, part in read])
