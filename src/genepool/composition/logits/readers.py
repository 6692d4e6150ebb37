"""How one of several models reads what the leading model reads: its own cache, mask and positions, its own prefix.

A `TokenReader` gets the same tokens, under its own numbers where they differ. A `TextReader` has another vocabulary:
it reads the text, and takes back what a new token made it tokenize otherwise. Both give predictions over the leading
model's vocabulary at the places that are asked for. Used by `fused_network`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from genepool.composition.logits.vocabulary_map import VocabularyMap


class ReadingState(ABC):
    """What a reader remembers of the rows of a batch; it moves with them.

    Attributes:
        rows: their number.
    """

    rows: int

    @abstractmethod
    def reorder(self, rows: torch.Tensor) -> None:
        """Row i becomes what row `rows[i]` was: beams, and rows left out or repeated."""

    @abstractmethod
    def crop(self, tokens: int) -> None:
        """Forgets the last `tokens` of the leading model's tokens."""


class Reader(ABC):
    """One model of a fusion.

    Attributes:
        network: the model.
    """

    network: Any

    @abstractmethod
    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """Reads new tokens.

        Args:
            tokens: what the leading model reads now.
            state: what this reader returned before; None at first.
            keep: for how many of the last places predictions are wanted, at least 1.
            remember: whether more tokens will follow.

        Returns:
            Predictions over the leading model's vocabulary, (rows, keep, vocabulary), and the state.
        """


class ReadTokens:
    """New tokens of the leading model.

    Args:
        ids: (rows, new).
        mask: which tokens count, read ones first, (rows, read + new); all do when None.
        positions: of the new tokens, (rows, new); counted from the mask when None.

    Attributes:
        ids, mask, positions: as above, the last two never None.
    """

    def __init__(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None, read: int = 0
    ) -> None:
        rows, new = ids.shape
        self.ids = ids
        self.mask = torch.ones(rows, read + new, dtype=torch.long, device=ids.device) if mask is None else mask
        counted = (self.mask.cumsum(-1) - 1).clamp_min(0)[:, -new:]
        self.positions = counted if positions is None else positions


class _Keys(ReadingState):
    """The keys and values of a network, and which of the first call's tokens it leaves out, (rows, columns)."""

    def __init__(self, cache: Any, left_out: torch.Tensor) -> None:
        self.cache, self.left_out, self.rows = cache, left_out, len(left_out)

    def reorder(self, rows: torch.Tensor) -> None:
        rows = rows.to(self.left_out.device)
        self.cache.reorder_cache(rows)
        self.left_out, self.rows = self.left_out[rows], len(rows)

    def crop(self, tokens: int) -> None:
        self.cache.crop(-tokens)


class TokenReader(Reader):
    """A model that reads the leading model's tokens.

    Args:
        network: transformers' causal language model.
        vocabulary: from its vocabulary to the leading model's, one to one.
        prefix: tokens, under its own numbers, that it alone reads before each row.
        begins: the leading model's token that begins every text; a row's own is left out behind a prefix.
    """

    def __init__(
        self, network: Any, vocabulary: VocabularyMap, prefix: Sequence[int] = (), begins: int | None = None
    ) -> None:
        self.network, self.vocabulary, self.begins = network, vocabulary, begins
        self.prefix = torch.tensor(list(prefix), dtype=torch.long)
        self._fewer_logits = can_keep_fewer(network)

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`."""
        ids, mask, positions = self.vocabulary.own_numbers(tokens.ids), tokens.mask, tokens.positions
        rows, before = ids.shape[0], len(self.prefix)
        left_out = self._left_out(tokens) if state is None else state.left_out
        if before:
            mask = mask.clone()
            mask[:, : left_out.shape[1]] *= (~left_out).to(mask.dtype)
            # The padding of a short row stands between the prefix and its tokens, and the mask keeps it out.
            mask = torch.cat([mask.new_ones(rows, before), mask], 1)
            positions = (positions + before - left_out.sum(-1, keepdim=True)).clamp_min(0)
            if state is None:
                own = self.prefix.to(ids.device).expand(rows, before)
                ids = torch.cat([own, ids], 1)
                positions = torch.cat([torch.arange(before, device=ids.device).expand(rows, before), positions], 1)
        result = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=None if state is None else state.cache,
            use_cache=remember,
            **({"logits_to_keep": keep} if self._fewer_logits else {}),
        )
        return self.vocabulary.mapped(result.logits[:, -keep:]), _Keys(result.past_key_values, left_out)

    def _left_out(self, tokens: ReadTokens) -> torch.Tensor:
        """Which of the first tokens are left out: each row's first, where it is the one that begins a text."""
        if self.begins is None:
            return torch.zeros_like(tokens.ids, dtype=torch.bool)
        first = tokens.mask.cumsum(-1) == 1
        return first & tokens.mask.bool() & (tokens.ids == self.begins)


class _Texts(ReadingState):
    """The leading model's tokens of every row, and what the network has read of their texts so far.

    A token that a longer text was tokenized without stays in the cache and is masked out.

    Attributes:
        lead: the leading model's tokens that count, a list a row.
        counts: which of its columns count, (rows, columns).
        own: the network's tokens in the cache, (rows, places).
        live: which of them count, (rows, places).
        cache: the network's keys and values.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.lead = torch.zeros(rows, 0, dtype=torch.long)
        self.counts = torch.zeros(rows, 0, dtype=torch.bool)
        self.own = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.live = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.cache: Any = None
        self.rows = rows

    def reorder(self, rows: torch.Tensor) -> None:
        self.lead, self.counts = self.lead[rows.cpu()], self.counts[rows.cpu()]
        own = rows.to(self.own.device)
        self.own, self.live = self.own[own], self.live[own]
        self.cache.reorder_cache(own)
        self.rows = len(rows)

    def crop(self, tokens: int) -> None:
        # What the network has read stays: the next text shows what of it no longer counts.
        kept = self.lead.shape[1] - tokens
        self.lead, self.counts = self.lead[:, :kept], self.counts[:, :kept]


class TextReader(Reader):
    """A model with another vocabulary: it reads the text that the leading model's tokens stand for.

    Args:
        network: transformers' causal language model, whose cache is of keys and values alone.
        vocabulary: from its vocabulary to the leading model's.
        tokenizer: its own.
        lead_tokenizer: the leading model's.
        prefix: a text that it alone reads before each row.
        context: the largest number of tokens that it was made for; those of a longer text that come last share the
            last position.
    """

    def __init__(
        self,
        network: Any,
        vocabulary: VocabularyMap,
        tokenizer: Any,
        lead_tokenizer: Any,
        *,
        prefix: str = "",
        context: int = 10**9,
    ) -> None:
        self.network, self.vocabulary, self.context = network, vocabulary, context
        self.tokenizer, self.lead_tokenizer, self.prefix = tokenizer, lead_tokenizer, prefix
        self._fewer_logits = can_keep_fewer(network)

    def read(self, tokens: ReadTokens, state: Any, keep: int, remember: bool) -> tuple[torch.Tensor, ReadingState]:
        """See `Reader.read`; a place is read after the other, because each may change how the text is tokenized."""
        rows, new = tokens.ids.shape
        texts = _Texts(rows, tokens.ids.device) if state is None else state
        first = new - keep
        found = []
        for until in range(first + 1, new + 1):
            since = 0 if until == first + 1 else until - 1
            texts.lead = torch.cat([texts.lead, tokens.ids[:, since:until].cpu()], 1)
            start = tokens.mask.shape[1] - new
            counted = tokens.mask[:, start + since : start + until].bool().cpu()
            texts.counts = torch.cat([texts.counts, counted], 1)
            found.append(self.vocabulary.mapped(self._last(texts)))
        return torch.stack(found, 1), texts

    def _last(self, texts: _Texts) -> torch.Tensor:
        """The network's prediction behind the text of every row so far, (rows, tokens)."""
        wanted = [self._own_tokens(row[counts].tolist()) for row, counts in zip(texts.lead, texts.counts, strict=True)]
        missing = [self._settle(texts, row, own) for row, own in enumerate(wanted)]
        width = max(map(len, missing))
        device = texts.own.device
        ids = torch.zeros(len(missing), width, dtype=torch.long)
        live = torch.zeros_like(ids)
        for row, own in enumerate(missing):
            ids[row, width - len(own) :] = torch.tensor(own)
            live[row, width - len(own) :] = 1
        texts.own = torch.cat([texts.own, ids.to(device)], 1)
        texts.live = torch.cat([texts.live, live.to(device)], 1)
        positions = (texts.live.cumsum(-1) - 1).clamp(0, self.context - 1)[:, -width:]
        result = self.network(
            input_ids=ids.to(device),
            attention_mask=texts.live,
            position_ids=positions,
            past_key_values=texts.cache,
            use_cache=True,
            **({"logits_to_keep": 1} if self._fewer_logits else {}),
        )
        texts.cache = result.past_key_values
        logits: torch.Tensor = result.logits[:, -1]
        return logits

    def _own_tokens(self, lead: list[int]) -> list[int]:
        return text_tokens(self.tokenizer, self.lead_tokenizer, lead, self.prefix)

    @staticmethod
    def _settle(texts: _Texts, row: int, wanted: Sequence[int]) -> list[int]:
        """Masks out what a row's text no longer begins with; returns what is left to read, at least one token."""
        places = texts.live[row].nonzero().squeeze(-1).tolist()
        known = texts.own[row, places].tolist()
        same = 0
        while same < min(len(known), len(wanted) - 1) and known[same] == wanted[same]:
            same += 1
        texts.live[row, places[same:]] = 0
        return list(wanted[same:])


def text_tokens(tokenizer: Any, lead_tokenizer: Any, lead: list[int], prefix: str = "") -> list[int]:
    """A tokenizer's numbers of the text that the leading model's tokens stand for, at least one.

    Args:
        tokenizer: whose numbers are wanted.
        lead_tokenizer: the leading model's.
        lead: its tokens.
        prefix: a text in front.
    """
    text = str(lead_tokenizer.decode(lead, skip_special_tokens=True))
    # A character of several bytes whose last ones are still to come.
    text = text.rstrip("\ufffd")
    numbers = [int(one) for one in tokenizer(prefix + text, verbose=False).input_ids]
    while numbers and numbers[-1] == tokenizer.eos_token_id:
        numbers.pop()
    return numbers or [tokenizer.bos_token_id or 0]


def can_keep_fewer(network: Any) -> bool:
    """Whether a network can be asked for the logits of its last places alone."""
    return "logits_to_keep" in inspect.signature(network.forward).parameters
