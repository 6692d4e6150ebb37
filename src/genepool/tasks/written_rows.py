"""The rows of a batch as a causal language model writes them: its prompts read, then a token for every row at a time.

Where a model keeps keys and values alone, prompts are read in groups and ended rows leave; any other model reads its
prompts at once, and rows stay until the last has ended. `decoding` chooses the tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.causal_lm import LanguageModel

# Tokens of prompts that a processor reads at once; measured: half as many and twice as many take as long.
_READ_AT_ONCE = 1024
# Tokens that all prompts of a batch begin with, as solved examples do, are read once from this many on.
_WORTH_SHARING = 32


class BatchRows(ABC):
    """The rows of a batch that is written; each that has not left is a line."""

    @abstractmethod
    def step(self, new: torch.Tensor | None) -> torch.Tensor:
        """The logits behind the last token of each line, (lines, vocabulary).

        Args:
            new: the tokens chosen last, (lines, 1); None at first.
        """

    def keep(self, lines: Sequence[int]) -> bool:
        """Lets all other lines leave and keeps these in this order, or does nothing and says no."""
        return False


class Rows(BatchRows):
    """The rows of a batch under any model: all stay until the last has ended.

    Args:
        model: who writes.
        heads: the prompts' token ids, each at least one.
        requests: the prompts' numbers; counted from 0 when None.
    """

    def __init__(
        self, model: LanguageModel, heads: Sequence[Sequence[int]], requests: Sequence[int] | None = None
    ) -> None:
        self.model = model
        #: Of every line.
        self.requests = list(range(len(heads)) if requests is None else requests)
        self.ids, self.mask = padded_left(heads, model.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        self.state: Any = None

    def step(self, new: torch.Tensor | None) -> torch.Tensor:
        """See `BatchRows.step`."""
        import torch

        if new is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(new)], 1)
            # Rows that have ended go on until the last one has, but never past the last position a model knows.
            after = (self.positions[:, -1:] + 1).clamp_max(self.model.context - 1)
            # Where a model keeps no such state, it reads everything again.
            self.ids = new if self.state is not None else torch.cat([self.ids, new], 1)
            self.positions = after if self.state is not None else torch.cat([self.positions, after], 1)
        result = self._read(self.requests, self.ids, self.mask, self.positions, self.state)
        self.state = getattr(result, "past_key_values", None)
        logits: torch.Tensor = result.logits[:, -1]
        return logits

    def _read(
        self, requests: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, state: Any
    ) -> Any:
        return self.model.run(
            requests,
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=state,
            use_cache=True,
            **self.model.last_logits_only,
        )


class RowsInRoom(Rows):
    """The rows of a batch under a model that keeps keys and values: prompts are read in groups, and ended rows leave.

    Args:
        model, heads, requests: as for `Rows`.
    """

    def __init__(
        self, model: LanguageModel, heads: Sequence[Sequence[int]], requests: Sequence[int] | None = None
    ) -> None:
        super().__init__(model, heads, requests)
        self._heads = [tuple(head) for head in heads]
        # Prompts that are alike are read once, by the first row of them.
        firsts: dict[tuple[Hashable, tuple[int, ...]], int] = {}
        self._owners: dict[int, list[int]] = {}
        for row, head in enumerate(self._heads):
            first = firsts.setdefault((model.alike(self.requests[row]), head), row)
            self._owners.setdefault(first, []).append(row)
        #: Whether what prompts begin with may be read once for all.
        self._may_share = len({kind for kind, _ in firsts}) == 1

    def step(self, new: torch.Tensor | None) -> torch.Tensor:
        """See `BatchRows.step`."""
        return self._prompts() if new is None else super().step(new)

    def keep(self, lines: Sequence[int]) -> bool:
        """See `BatchRows.keep`."""
        import torch

        kept = torch.tensor(lines, device=self.mask.device)
        self.mask, self.positions = self.mask.index_select(0, kept), self.positions.index_select(0, kept)
        self.requests = [self.requests[line] for line in lines]
        self.state.batch_select_indices(kept)
        return True

    def _prompts(self) -> torch.Tensor:
        """Reads the prompts; the logits behind each, (rows, vocabulary)."""
        import torch

        from genepool.tasks.roomy_cache import RoomyCache, looks_at_all

        width, unique = self.mask.shape[1], list(self._owners)
        heads = [self._heads[row] for row in unique]
        begin = _common_beginning(heads)
        shared: Any = None
        if begin >= _WORTH_SHARING and len(unique) > 1 and self._may_share:
            ids, mask = padded_left([heads[0][:begin]], self.model.device)
            shared = self._read(self.requests[:1], ids, mask, mask.cumsum(-1) - 1, None).past_key_values
            # What a window holds of the beginning depends on how long the rest is.
            shared = shared if looks_at_all(shared) else None
        known = begin if shared is not None else 0
        found: dict[int, torch.Tensor] = {}
        for places in _groups(heads, known, self.model.device.type, alike=self.model.model.dtype == torch.float64):
            group = [unique[place] for place in places]
            result = self._read_group(group, known, shared)
            if self.state is None:
                self.state = RoomyCache(result.past_key_values, len(self.mask), width)
            for line, first in enumerate(group):
                found.update(dict.fromkeys(self._owners[first], result.logits[line, -1]))
            owners = [(row, line) for line, first in enumerate(group) for row in self._owners[first]]
            self.state.put(owners, result.past_key_values)
        return torch.stack([found[row] for row in range(len(self.mask))])

    def _read_group(self, rows: Sequence[int], known: int, shared: Any) -> Any:
        """What the network gives for some prompts of which it has read the first `known` tokens, which are alike."""
        from genepool.tasks.roomy_cache import begun_cache

        group = [self._heads[row] for row in rows]
        ids, mask = padded_left(group, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        # Rows end together. A shorter one begins later, so it reads the end of what is known again.
        late = [len(group[0]) - len(head) for head in group]
        state = begun_cache(shared, late) if known else None
        return self._read([self.requests[row] for row in rows], ids[:, known:], mask, positions[:, known:], state)


def _common_beginning(heads: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with, one of each left to be read."""
    first, last = min(heads), max(heads)
    shortest = min(map(len, heads)) - 1
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)


def _groups(heads: Sequence[tuple[int, ...]], known: int, device: str, *, alike: bool = False) -> Iterator[list[int]]:
    """Numbers of the prompts that are read at once but for their first `known` tokens, the longest first.

    Beyond some tokens a processor gains nothing from more, and what a layer computes no longer fits its cache.

    Args:
        heads: the prompts.
        known: tokens that are read already.
        device: "cpu", or another one.
        alike: read only prompts of one length at once, without padding. Attention that transformers writes out
            ("eager", which Gemma 2 and gpt-oss use) takes shares in float32, where the lowest number of float64 is
            minus infinity: places of padding, which see nothing, would be NaN, and so would the row.
    """
    order = sorted(range(len(heads)), key=lambda place: -len(heads[place]))
    while order:
        longest = len(heads[order[0]])
        rows = max(1, _READ_AT_ONCE // (longest - known)) if device == "cpu" else len(order)
        if alike:
            rows = min(rows, sum(len(heads[place]) == longest for place in order))
        yield order[:rows]
        order = order[rows:]


def padded_left(heads: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the left, and the mask that keeps the padding out: (rows, width) each."""
    import torch

    width = max(len(head) for head in heads)
    ids = torch.zeros(len(heads), width, dtype=torch.long)
    mask = torch.zeros(len(heads), width, dtype=torch.long)
    for row, head in enumerate(heads):
        ids[row, width - len(head) :] = torch.tensor(head)
        mask[row, width - len(head) :] = 1
    return ids.to(device), mask.to(device)
