"""Decoding for models that may take back what they wrote: one token deletes the token before it.

After a backspace a model is where it was before: what was deleted is read no more, so every choice reads the rest
again, without keys and values that were kept. Used by `decoding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool import seeding
from genepool.tasks.decoding import Decoding, Written, choose, cut_at_stop, stops_in

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.causal_lm import LanguageModel

#: Choices of a row, at most, in those it could make without a backspace: deleted tokens and backspaces are choices too.
MOST_CHOICES = 3


class _Row:
    """What stands behind one prompt so far.

    Attributes:
        tokens: what is written now.
        chosen: how many choices were made.
        taken: tokens that were taken back where the next one stands.
        logprob: of all choices.
        end: the token that ended it, if one did.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.chosen = 0
        self.taken: list[set[int]] = [set()]
        self.logprob = 0.0
        self.end: list[int] = []


def write_taking_back(
    model: LanguageModel,
    heads: Sequence[Sequence[int]],
    keys: Sequence[str],
    decoding: Decoding,
    requests: Sequence[int],
) -> list[Written]:
    """What a model with a backspace writes after each prompt of a batch.

    Where nothing is written, nothing can be taken back. Greedy decoding does not write a token again at the place where
    it was taken back: it would for ever.

    Args:
        model: who writes; it has a backspace.
        heads: token ids of the prompts.
        keys: one per row; the randomness of a drawn answer belongs to (seed, key).
        decoding: how; `max_new_tokens` bounds what is written in the end.
        requests: the prompts' numbers.
    """
    import torch

    back = model.backspace
    assert back is not None
    rows = [_Row() for _ in heads]
    limits = [min(decoding.max_new_tokens, model.context - len(head)) for head in heads]
    generators = [seeding.torch_generator(decoding.seed, "decode", key) for key in keys]
    running = list(range(len(heads)))
    with torch.inference_mode():
        while running:
            tokens = [[*heads[at], *rows[at].tokens] for at in running]
            logits = _last_logits(model, tokens, [requests[at] for at in running])
            barred = logits.clone()
            for line, at in enumerate(running):
                row = rows[at]
                # The last choice leaves something written.
                if not row.tokens or row.chosen + 1 == MOST_CHOICES * limits[at]:
                    barred[line, back] = -float("inf")
                if not decoding.temperature:
                    barred[line, list(row.taken[-1])] = -float("inf")
            chosen = choose(barred, [generators[at] for at in running], decoding).tolist()
            shares = logits.log_softmax(-1)
            running = [
                at
                for line, at in enumerate(running)
                if _goes_on(model, rows[at], chosen[line], float(shares[line, chosen[line]]), limits[at], decoding)
            ]
    return [
        Written(cut_at_stop(model.decode(row.tokens), decoding.stop), row.logprob, (*row.tokens, *row.end))
        for row in rows
    ]


def _goes_on(model: LanguageModel, row: _Row, token: int, share: float, limit: int, decoding: Decoding) -> bool:
    """Makes a choice; whether another follows."""
    row.chosen += 1
    if token in model.end_tokens:
        row.end = [token]
        return False
    row.logprob += share
    if token == model.backspace:
        row.taken.pop()
        row.taken[-1].add(row.tokens.pop())
    else:
        row.tokens.append(token)
        row.taken.append(set())
        if len(row.tokens) == limit or stops_in(model.decode(row.tokens), decoding.stop):
            return False
    return row.chosen < MOST_CHOICES * limit


def _last_logits(model: LanguageModel, rows: Sequence[Sequence[int]], requests: Sequence[int]) -> torch.Tensor:
    """Logits behind the last token of each row, (rows, vocabulary), float32, on the processor."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = torch.tensor(row)
    # Padding stands behind every token that matters, so the causal mask alone keeps it out.
    begins = model.answers_begin([len(row) - 1 for row in rows])
    logits = model.run(requests, input_ids=ids.to(model.device), use_cache=False, **begins).logits
    found: torch.Tensor = logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])].float().cpu()
    return found
