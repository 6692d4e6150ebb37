"""How likely continuations are after their prompts, reading what prompts have in common only once.

The choices of a question stand behind one prompt. The prompt is read once, its keys and values are kept, and each
choice is read on top of them; choices of one token are not read at all, since the prompt's last logits judge them.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.tasks.decoding import LOGIT_BYTES, batches, check_length, continuation

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.causal_lm import LanguageModel

# Keys and values of prompts, and of the choices behind them, stay below this many bytes each.
_STATE_BYTES = 1024**3


@dataclass(frozen=True)
class ContinuationLikelihood:
    """How a model takes one continuation.

    Attributes:
        logprob: log-likelihood of its tokens, natural logarithm, summed.
        greedy: whether each token is the likeliest at its place.
        tokens: their number.
    """

    logprob: float
    greedy: bool
    tokens: int


def loglikelihoods(
    model: LanguageModel, prompts: Sequence[str], continuations: Sequence[str], batch_size: int
) -> list[ContinuationLikelihood]:
    """Log-likelihood of each continuation after its prompt; prompts that are alike are read once.

    Args:
        model: who is asked.
        prompts: texts, one per continuation.
        continuations: texts.
        batch_size: rows computed at once.

    Raises:
        InputError: a prompt and its continuation are longer than the model's context.
    """
    model.encode_ahead(prompt + text for prompt, text in zip(prompts, continuations, strict=True))
    heads = model.encode_all(prompts)
    tails = [continuation(model, prompt, text) for prompt, text in zip(prompts, continuations, strict=True)]
    return token_likelihoods(model, heads, tails, batch_size)


def token_likelihoods(
    model: LanguageModel, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]], batch_size: int
) -> list[ContinuationLikelihood]:
    """As `loglikelihoods`, of token ids: `tails[i]` after `heads[i]`, which must not be empty."""
    import torch

    # The last token is judged by what stands before it and never read.
    check_length(model, heads, tails, unread=1)
    groups: dict[tuple[Hashable, tuple[int, ...]], list[int]] = {}
    for place, head in enumerate(heads):
        groups.setdefault((model.alike(place), tuple(head)), []).append(place)
    results: dict[int, ContinuationLikelihood] = {}
    with torch.inference_mode():
        if model.keeps_keys_and_values:
            shared = [places for places in groups.values() if len(places) > 1]
            results.update(_shared(model, shared, heads, tails, batch_size))
        rest = [place for place in range(len(heads)) if place not in results]
        results.update(_alone(model, rest, heads, tails, batch_size))
    return [results[place] for place in range(len(heads))]


def _alone(
    model: LanguageModel,
    places: Sequence[int],
    heads: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    batch_size: int,
) -> dict[int, ContinuationLikelihood]:
    """Each prompt and continuation read as a whole."""
    import torch

    lengths = [len(heads[i]) + max(len(tails[i]) - 1, 0) for i in places]
    found: dict[int, ContinuationLikelihood] = {}
    for rows in batches(lengths, batch_size, model.logit_bytes):
        width = max(lengths[row] for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for line, row in enumerate(rows):
            i = places[row]
            ids[line, : lengths[row]] = torch.tensor([*heads[i], *tails[i][:-1]])
        # Padding stands behind every token that matters, so the causal mask alone keeps it out.
        begins = model.answers_begin([len(heads[places[row]]) - 1 for row in rows])
        requests = [places[row] for row in rows]
        logits = model.run(requests, input_ids=ids.to(model.device), use_cache=False, **begins).logits
        for line, row in enumerate(rows):
            i = places[row]
            first, count = len(heads[i]) - 1, len(tails[i])
            found[i] = judged(logits[line, first : first + count], tails[i])
    return found


def judged(logits: torch.Tensor, tail: Sequence[int]) -> ContinuationLikelihood:
    """Of one continuation, from the logits (tokens, vocabulary) at the places before its tokens."""
    import torch

    if not tail:
        return ContinuationLikelihood(0.0, True, 0)
    targets = torch.tensor(list(tail), device=logits.device)
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    return ContinuationLikelihood(float(chosen.sum()), bool((logits.argmax(-1) == targets).all()), len(tail))


def _shared(
    model: LanguageModel,
    groups: Sequence[Sequence[int]],
    prompts: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    batch_size: int,
) -> dict[int, ContinuationLikelihood]:
    """Continuations of prompts that several have in common; each of `groups` has one prompt."""
    import torch

    heads = [prompts[places[0]] for places in groups]
    state_bytes = model.state_bytes_per_token
    logit_bytes = max(model.logit_bytes, state_bytes * LOGIT_BYTES // _STATE_BYTES)
    found: dict[int, ContinuationLikelihood] = {}
    # What bounds a batch is the state of its prompts; only their last places have logits where the model allows it.
    per_token = logit_bytes if not model.last_logits_only else max(1, state_bytes * LOGIT_BYTES // _STATE_BYTES)
    for rows in batches([len(head) for head in heads], batch_size, per_token):
        width = max(len(heads[row]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for line, row in enumerate(rows):
            ids[line, width - len(heads[row]) :] = torch.tensor(heads[row])
            mask[line, width - len(heads[row]) :] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        result = model.run(
            [groups[row][0] for row in rows],
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            use_cache=True,
            **model.last_logits_only,
        )
        last = result.logits[:, -1].float()
        found.update(
            _continued(
                model,
                [(line, place) for line, row in enumerate(rows) for place in groups[row]],
                tails,
                last,
                mask,
                result.past_key_values,
                batch_size,
                logit_bytes,
            )
        )
    return found


def _continued(
    model: LanguageModel,
    pairs: Sequence[tuple[int, int]],
    tails: Sequence[Sequence[int]],
    last: torch.Tensor,
    mask: torch.Tensor,
    state: Any,
    batch_size: int,
    logit_bytes: int,
) -> dict[int, ContinuationLikelihood]:
    """Reads continuations on top of a batch of prompts.

    Args:
        pairs: (line of the prompt in the batch, place of the continuation).
        tails: all continuations.
        last: logits behind each prompt, shape (prompts, vocabulary).
        mask: which tokens of the prompts count, shape (prompts, width).
        state: the keys and values of the prompts.
    """
    import torch

    lines = torch.tensor([line for line, _ in pairs], device=last.device)
    tops, sums = last.argmax(-1), last.logsumexp(-1)
    first = [tails[place][0] if tails[place] else 0 for _, place in pairs]
    firsts = torch.tensor(first, device=last.device)
    first_logprob = (last[lines, firsts] - sums[lines]).tolist()
    first_hit = (tops[lines] == firsts).tolist()
    found: dict[int, ContinuationLikelihood] = {}
    longer: list[int] = []
    for number, (_, place) in enumerate(pairs):
        count = len(tails[place])
        if count > 1:
            longer.append(number)
        else:
            found[place] = (
                ContinuationLikelihood(first_logprob[number], first_hit[number], 1) if count else judged(last[:0], ())
            )
    chunks = list(batches([len(tails[pairs[number][1]]) - 1 for number in longer], batch_size, logit_bytes))
    for turn, chunk in enumerate(chunks):
        numbers = [longer[at] for at in chunk]
        width = max(len(tails[pairs[number][1]]) for number in numbers) - 1
        ids = torch.zeros(len(numbers), width, dtype=torch.long)
        targets = torch.zeros(len(numbers), width, dtype=torch.long)
        real = torch.zeros(len(numbers), width, dtype=torch.bool)
        for line, number in enumerate(numbers):
            tail = torch.tensor(list(tails[pairs[number][1]]))
            ids[line, : len(tail) - 1], targets[line, : len(tail) - 1] = tail[:-1], tail[1:]
            real[line, : len(tail) - 1] = True
        ids, targets, real = (tensor.to(model.device) for tensor in (ids, targets, real))
        chosen = lines[torch.tensor(numbers, device=lines.device)]
        # Selecting works in place, and the next chunk needs the prompts' state as it was.
        own = state if turn == len(chunks) - 1 else copy.deepcopy(state)
        own.batch_select_indices(chosen)
        before = mask.index_select(0, chosen)
        places = before.sum(-1, keepdim=True) + torch.arange(width, device=mask.device)
        logits = model.run(
            [pairs[number][1] for number in numbers],
            input_ids=ids,
            attention_mask=torch.cat([before, torch.ones_like(ids)], 1),
            # Padding behind a short continuation must not ask for a position the model does not have.
            position_ids=places.clamp_max(model.context - 1),
            past_key_values=own,
            use_cache=True,
        ).logits.float()
        shares = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        summed = torch.where(real, shares, torch.zeros_like(shares)).sum(-1).tolist()
        hits = ((logits.argmax(-1) == targets) | ~real).all(-1).tolist()
        for line, number in enumerate(numbers):
            place = pairs[number][1]
            found[place] = ContinuationLikelihood(
                first_logprob[number] + summed[line], bool(first_hit[number] and hits[line]), len(tails[place])
            )
    return found
