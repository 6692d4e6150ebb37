"""One model's predictions brought onto another's vocabulary, and the mass that this loses.

Three cases. Equal vocabularies need nothing. The same tokens under other numbers, or behind other padding, are
gathered. Otherwise each token goes to the first of the tokens that the leading tokenizer makes of its bytes, and
probabilities are added up, never logits. Used by `readers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from genepool.tasks.token_bytes import token_bytes


@dataclass(frozen=True)
class VocabularyMap:
    """From a model's vocabulary to the leading model's.

    Attributes:
        targets: the leading model's token of each of the model's tokens, -1 for none, (tokens,); None where the
            vocabularies are equal.
        width: logits of the leading model.
        one_to_one: the same tokens under other numbers: the model can read the leading model's tokens.
    """

    targets: torch.Tensor | None
    width: int
    one_to_one: bool

    @classmethod
    def between(cls, tokenizer: Any, width: int, lead_tokenizer: Any, lead_width: int) -> VocabularyMap:
        """The map of two tokenizers.

        Args:
            tokenizer, lead_tokenizer: transformers' tokenizers of the model and of the leading one.
            width, lead_width: how many logits their models have; more than tokens where they are padded.
        """
        own, lead = tokenizer.get_vocab(), lead_tokenizer.get_vocab()
        if own == lead and width == lead_width:
            return cls(None, lead_width, True)
        targets = torch.full((width,), -1, dtype=torch.long)
        if set(own) == set(lead):
            pairs = {number: lead[text] for text, number in own.items()}
        else:
            pairs = _by_bytes(tokenizer, lead_tokenizer)
        for number, target in pairs.items():
            if number < width and target < lead_width:
                targets[number] = target
        return cls(targets, lead_width, set(own) == set(lead))

    @property
    def equal(self) -> bool:
        """Whether predictions stay as they are."""
        return self.targets is None

    def own_numbers(self, ids: torch.Tensor) -> torch.Tensor:
        """The leading model's tokens under the model's numbers; for maps that are one to one.

        A number that the leading tokenizer does not know becomes 0: only padding has such numbers.
        """
        if self.targets is None:
            return ids
        table = torch.zeros(max(self.width, int(self.targets.max()) + 1), dtype=torch.long)
        known = (self.targets >= 0).nonzero().squeeze(-1)
        table[self.targets[known]] = known
        return table.to(ids.device)[ids]

    def mapped(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., tokens) over the leading model's vocabulary, (..., width).

        Log-probabilities where the vocabularies differ; minus infinity where nothing is known of a token.
        """
        if self.targets is None:
            return logits
        found = self._added(logits.float().softmax(-1))
        return found.log()

    def uncovered(self, logits: torch.Tensor) -> torch.Tensor:
        """The share of each prediction that falls on tokens the leading model does not have, shape (...)."""
        if self.targets is None:
            return torch.zeros(logits.shape[:-1], device=logits.device)
        shares = logits.float().softmax(-1)
        return shares[..., (self.targets < 0).to(shares.device)].sum(-1)

    def _added(self, shares: torch.Tensor) -> torch.Tensor:
        assert self.targets is not None
        kept = (self.targets >= 0).nonzero().squeeze(-1).to(shares.device)
        found = shares.new_zeros(*shares.shape[:-1], self.width)
        return found.index_add(-1, self.targets.to(shares.device)[kept], shares[..., kept])


def _by_bytes(tokenizer: Any, lead_tokenizer: Any) -> dict[int, int]:
    """The leading tokenizer's token of each of a tokenizer's tokens, where there is one.

    A token with the same bytes comes first; else the first token that the bytes are made into. Special tokens go by
    their role: the end of one is the end of the other.
    """
    by_bytes = {text: number for number, text in sorted(token_bytes(lead_tokenizer).items(), reverse=True)}
    special = set(lead_tokenizer.all_special_ids)
    found: dict[int, int] = {}
    for number, text in token_bytes(tokenizer).items():
        if text in by_bytes:
            found[number] = by_bytes[text]
        elif (first := _first_token(text, lead_tokenizer, by_bytes, special)) is not None:
            found[number] = first
    for role in ("eos_token_id", "bos_token_id"):
        own, lead = getattr(tokenizer, role, None), getattr(lead_tokenizer, role, None)
        if own is not None and lead is not None:
            found[own] = lead
    return found


def _first_token(text: bytes, tokenizer: Any, by_bytes: dict[bytes, int], special: set[int]) -> int | None:
    """The first token that a tokenizer makes of some bytes; None where that is a special one, such as the unknown."""
    try:
        numbers = tokenizer(text.decode(), add_special_tokens=False, verbose=False).input_ids
    except UnicodeDecodeError:
        # Part of a character: only tokens of single bytes can begin it.
        return by_bytes.get(text[:1])
    return next((int(number) for number in numbers[:1] if number not in special), None)
