"""What CALM's augmenting model reads of the anchor's tokens, and which of its places each of these may see.

`SameTokens` reads the very tokens. `OwnTokens` has another tokenizer: at every place of the anchor it reads the text up
to there as its own tokenizer cuts it. Where more text makes that cut another one, the tokens that no longer count stay
in the cache as a branch that later tokens do not see, so a place sees the same whether the text was read at once or
token by token. Uses the readers of `logits`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from genepool.composition.hidden.cross_attention import seen_places
from genepool.composition.logits.readers import ReadingState, ReadTokens, TokenReader, can_keep_fewer, text_tokens
from genepool.composition.steering.layers import edited
from genepool.errors import InputError

#: What an augmenting model's layers give for its new places, by number, (rows, places, width); which of all its places
#: each new token of the anchor may see, (rows, new, places); and what it remembers.
Augmented = tuple[dict[int, torch.Tensor], torch.Tensor, ReadingState]
# Texts whose tokens are kept: those of a training come again and again.
_TEXTS = 1 << 14
# Counts for all tokens that follow.
_NEVER = 1 << 62
# What rounding may leave of the difference that an unseen token makes.
_UNSEEN = 0.05


class Augmenting(ABC):
    """An augmenting model.

    Class attributes:
        alike: each of its places is one of the anchor's.
    """

    alike: ClassVar[bool]

    @abstractmethod
    def read(self, tokens: ReadTokens, state: Any, remember: bool) -> Augmented:
        """Reads what the anchor reads.

        Args:
            tokens: new tokens of the anchor.
            state: what was remembered; None at first.
            remember: whether more tokens will follow.
        """


class SameTokens(Augmenting):
    """A model with the anchor's tokens: a place sees the places up to its own.

    Args:
        reader: reads the anchor's tokens.
        layers: of the model.
    """

    alike = True

    def __init__(self, reader: TokenReader, layers: Sequence[nn.Module]) -> None:
        self._reader, self._layers = reader, layers

    def read(self, tokens: ReadTokens, state: Any, remember: bool) -> Augmented:
        """See `Augmenting.read`."""
        found, look = _listening()
        # It is frozen, and nothing of what is trained stands before it.
        with torch.no_grad(), edited(self._layers, look):
            _, after = self._reader.read(tokens, state, 1, remember)
        return found, seen_places(tokens.mask, tokens.ids.shape[1]), after


class _Trace(ReadingState):
    """What was read of every row: the anchor's tokens, and when each of the network's places began and ceased to count.

    Attributes:
        lead: the anchor's tokens, a list a row, None where one does not count.
        own: the network's tokens of the text so far, a list a row.
        path: their places in the cache, a list a row.
        begins, ends: of every place in the cache, the number of the anchor's token that it counts from and the first
            one that it no longer counts for, (rows, places); a place that never counts ends before it begins.
        clock: how many of the anchor's tokens were read, those that were taken back included.
        cache: keys and values.
    """

    def __init__(self, rows: int) -> None:
        self.lead: list[list[int | None]] = [[] for _ in range(rows)]
        self.own: list[list[int]] = [[] for _ in range(rows)]
        self.path: list[list[int]] = [[] for _ in range(rows)]
        self.begins = self.ends = torch.zeros(rows, 0, dtype=torch.long)
        self.rows, self.clock = rows, 0
        self.cache: Any = None

    def reorder(self, rows: torch.Tensor) -> None:
        chosen = rows.tolist()
        self.lead, self.own, self.path = (
            [list(part[row]) for row in chosen] for part in (self.lead, self.own, self.path)
        )
        self.begins, self.ends = self.begins[chosen], self.ends[chosen]
        self.cache.reorder_cache(rows)
        self.rows = len(chosen)

    def crop(self, tokens: int) -> None:
        # The network's places stay: the next text shows which of them still count.
        self.lead = [row[: len(row) - tokens] for row in self.lead]


class OwnTokens(Augmenting):
    """A model with another tokenizer than the anchor's.

    Args:
        network: transformers' causal language model, whose cache is of keys and values alone.
        tokenizer: its own.
        lead_tokenizer: the anchor's.
        layers: of the network.
        title: of the model, for errors.
        context: the largest number of tokens that it was made for; those of a longer text that come last share the
            last position.

    Raises:
        InputError: it cannot be told which tokens each token sees.
    """

    alike = False

    def __init__(
        self, network: Any, tokenizer: Any, lead_tokenizer: Any, layers: Sequence[nn.Module], title: str, context: int
    ) -> None:
        self.network, self._layers, self._context = network, layers, context
        self._fewer = {"logits_to_keep": 1} if can_keep_fewer(network) else {}
        self._tokens = functools.lru_cache(_TEXTS)(
            lambda lead: tuple(text_tokens(tokenizer, lead_tokenizer, list(lead)))
        )
        if not self._takes_any_mask():
            raise InputError(
                "has other tokens than the anchor, and cannot be told for each token which ones it sees",
                where=title,
                fix="Use a model of one vocabulary, or `genepool vocabulary transplant` one of them first",
            )

    def read(self, tokens: ReadTokens, state: Any, remember: bool) -> Augmented:
        """See `Augmenting.read`."""
        rows, new = tokens.ids.shape
        trace = _Trace(rows) if state is None else state
        before, first = trace.begins.shape[1], trace.clock
        counted = tokens.mask[:, tokens.mask.shape[1] - new :].bool().tolist()
        fresh: list[list[tuple[int, int]]] = []
        ended: list[dict[int, int]] = []
        for row, ids in enumerate(tokens.ids.tolist()):
            own: list[tuple[int, int]] = []
            gone: dict[int, int] = {}
            for time, (number, counts) in enumerate(zip(ids, counted[row], strict=True), first):
                trace.lead[row].append(number if counts else None)
                if counts or not trace.path[row]:
                    added, superseded = self._grown(trace, row, before + len(own))
                    own += [(one, time) for one in added]
                    gone |= dict.fromkeys(superseded, time)
            fresh.append(own)
            ended.append(gone)
        trace.clock += new
        # At least one place, which nothing sees where no row has a new token.
        ids, real = self._laid_out(trace, fresh, ended, max(1, *map(len, fresh)))
        found = self._read(trace, ids.to(tokens.ids.device), real)
        times = torch.arange(first, trace.clock)[None, :, None]
        seen = (trace.begins[:, None] <= times) & (times < trace.ends[:, None])
        return found, seen.to(tokens.ids.device), trace

    def _grown(self, trace: _Trace, row: int, place: int) -> tuple[Sequence[int], list[int]]:
        """Brings a row to its text so far: the tokens that must be read for it, and the places that no longer count.

        Args:
            trace: the rows.
            row: which one.
            place: the place of the first token that must be read.
        """
        wanted = self._tokens(tuple(number for number in trace.lead[row] if number is not None))
        known, path = trace.own[row], trace.path[row]
        same = 0
        while same < min(len(known), len(wanted)) and known[same] == wanted[same]:
            same += 1
        superseded, added = path[same:], wanted[same:]
        trace.own[row] = list(wanted)
        trace.path[row] = [*path[:same], *range(place, place + len(added))]
        return added, superseded

    @staticmethod
    def _laid_out(
        trace: _Trace, fresh: Sequence[Sequence[tuple[int, int]]], ended: Sequence[dict[int, int]], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New tokens as a matrix, and which of its entries are tokens, (rows, width); the trace gets their times."""
        ids = torch.zeros(trace.rows, width, dtype=torch.long)
        begins, ends = torch.zeros_like(ids), torch.full_like(ids, -1)
        for row, own in enumerate(fresh):
            if own:
                numbers, times = torch.tensor(own).T
                ids[row, : len(own)], begins[row, : len(own)], ends[row, : len(own)] = numbers, times, _NEVER
        real = ends >= 0
        trace.begins, trace.ends = torch.cat([trace.begins, begins], 1), torch.cat([trace.ends, ends], 1)
        for row, gone in enumerate(ended):
            if gone:
                trace.ends[row, list(gone)] = torch.tensor(list(gone.values()))
        return ids, real

    def _read(self, trace: _Trace, ids: torch.Tensor, real: torch.Tensor) -> dict[int, torch.Tensor]:
        """What the layers give for new tokens, (rows, width, entries) by number."""
        width, places = ids.shape[1], torch.arange(trace.begins.shape[1])
        own = places[-width:]
        times = trace.begins[:, -width:, None]
        seen = (trace.begins[:, None] <= times) & (times < trace.ends[:, None]) & (places <= own[:, None])
        positions = (seen.sum(-1) - 1).clamp(0, self._context - 1)
        # Padding sees itself alone: a row of the softmax without a place would be NaN.
        seen = torch.where(real[..., None], seen, places == own[:, None])
        found, look = _listening()
        with torch.no_grad(), edited(self._layers, look):
            trace.cache = self._asked(ids, positions.to(ids.device), seen.to(ids.device), trace.cache)[1]
        return found

    def _asked(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """The network's last logits and its cache; `seen` is (rows, new, places)."""
        kind = next(self.network.parameters()).dtype
        hidden = torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill(~seen, torch.finfo(kind).min)
        result = self.network(
            input_ids=ids,
            attention_mask=hidden.unsqueeze(1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._fewer,
        )
        logits: torch.Tensor = result.logits[:, -1]
        return logits, result.past_key_values

    def _takes_any_mask(self) -> bool:
        """Whether a token that is kept out of another's sight makes no difference to it; the network is asked."""
        from transformers import DynamicCache

        if any(getattr(layer, "is_sliding", False) for layer in DynamicCache(config=self.network.config).layers):
            return False
        device = next(self.network.parameters()).device
        first = torch.tensor([[0, 1, 2]], device=device)
        positions = torch.tensor([[0, 1, 1]], device=device)
        all_seen = torch.ones(1, 3, 3, dtype=torch.bool, device=device).tril()
        kept_out = all_seen.clone()
        kept_out[0, 2, 1] = False
        short = torch.ones(1, 2, 2, dtype=torch.bool, device=device).tril()
        with torch.no_grad():
            try:
                alone = self._asked(first[:, [0, 2]], positions[:, [0, 2]], short, None)[0].float()
                hidden = self._asked(first, positions, kept_out, None)[0].float()
                plain = self._asked(first, positions, all_seen, None)[0].float()
            # Any network of transformers may be asked: one that takes no such mask says so in its own way.
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
                return False
        return float((hidden - alone).norm()) <= _UNSEEN * float((plain - alone).norm())


def _listening() -> tuple[dict[int, torch.Tensor], Any]:
    """What layers give while `edited` is told to look, by number, and the function that looks."""
    found: dict[int, torch.Tensor] = {}

    def look(number: int, states: torch.Tensor) -> torch.Tensor:
        found[number] = states
        return states

    return found, look
