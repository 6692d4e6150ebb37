"""Decoding at temperatures that a head chooses from the hidden state: parts of a fusion with nothing but its base.

The base's reader keeps what its output layer was given, the head's reader scores the temperatures with it, and the rule
divides the logits. Uses the readers and rules of `logits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from genepool.composition.logits.readers import Reader, ReadingState, ReadTokens, TokenReader
from genepool.composition.logits.rules import FusionRule


class HeadInputReader(TokenReader):
    """A model, and what its output layer was given last, (rows, places, width)."""

    given: torch.Tensor

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`."""

        def look(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.given = inputs[0][:, -keep:]

        handle = self.network.get_output_embeddings().register_forward_pre_hook(look)
        try:
            return super().read(tokens, state, keep, remember)
        finally:
            handle.remove()


class _Nothing(ReadingState):
    """What a head remembers of its rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def reorder(self, rows: torch.Tensor) -> None:
        self.rows = len(rows)

    def crop(self, tokens: int) -> None:
        pass


class TemperatureHead(Reader):
    """Scores of the temperatures, in place of another model's logits.

    Args:
        base: reads before it.
        weight: (temperatures, width).
        bias: (temperatures,).
    """

    def __init__(self, base: HeadInputReader, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.network, self._base = base.network, base
        self.weight, self.bias = weight, bias

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`; (rows, keep, temperatures)."""
        given = self._base.given.float()
        scores = given @ self.weight.to(given.device).T + self.bias.to(given.device)
        return scores, _Nothing(len(given))


class Tempered(FusionRule):
    """Logits divided by the likeliest temperature; at 0 only the likeliest token is left.

    Args:
        temperatures: what the head chooses among.
        whole: one choice for an answer, made at the prompt's end, instead of one a token.
    """

    def __init__(self, temperatures: Sequence[float], *, whole: bool) -> None:
        self.temperatures, self.state_size = tuple(temperatures), 1 if whole else 0

    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `FusionRule.fuse`; `others` are the head's scores, (1, ..., temperatures)."""
        known = torch.tensor(self.temperatures, dtype=lead.dtype, device=lead.device)
        chosen = known[others[0].argmax(-1)]
        if state is not None:
            chosen = torch.where(state[:, 0].isnan(), chosen, state[:, 0])
        only = torch.full_like(lead, float("-inf")).scatter(-1, lead.argmax(-1, keepdim=True), 0.0)
        divisor = chosen.unsqueeze(-1)
        fused = torch.where(divisor > 0, lead / divisor.clamp_min(1e-6), only)
        return fused, None if state is None else chosen.unsqueeze(-1)
