"""Steering vectors made of examples: the mean difference of hidden states at the last token of an answer.

Either between a skill and its base that read the same right answers, or, in one model, between right answers and the
wrong ones that it writes itself. Uses `layers` and tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genepool.composition.steering.layers import decoder_layers, watched
from genepool.errors import InputError
from genepool.tasks.decoding import DEFAULT_BATCH, batches, check_length, continuation
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.tokenized import padded


def answer_states(model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
    """What stands behind every layer at the last token of every answer, (answers, layers, width), float32.

    Args:
        model: reads them.
        prompts, answers: texts; a prompt's own last token where its answer has none.

    Raises:
        InputError: a prompt and its answer are longer than the model's context.
    """
    heads = [model.encode(prompt) for prompt in prompts]
    tails = [continuation(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    check_length(model, heads, tails)
    texts = [head + tail for head, tail in zip(heads, tails, strict=True)]
    layers = decoder_layers(model.model, model.title)
    found: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for rows in batches([len(text) for text in texts], DEFAULT_BATCH, model.logit_bytes):
            ids, mask = padded([texts[row] for row in rows], model.device)
            last = torch.tensor([len(texts[row]) - 1 for row in rows])
            with watched(layers, last) as seen:
                model.model(input_ids=ids, attention_mask=mask, use_cache=False, **model.last_logits_only)
            stacked = torch.stack([seen[number] for number in range(len(layers))], 1)
            found.update(zip(rows, stacked, strict=True))
    states = torch.stack([found[row] for row in range(len(texts))])
    if not bool(torch.isfinite(states).all()):
        raise InputError("its hidden states are NaN or infinite", where=model.title, fix="Leave this model out")
    return states


def steering_vectors(right: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The vector of every layer, and the unit in which it is scaled.

    Args:
        right, other: hidden states of both sides, (examples, layers, width).

    Returns:
        Mean differences divided by their norm, (layers, width): zero where there is none; and the mean norm of the
        hidden states of the other side, (layers,).
    """
    difference = (right - other).mean(0)
    norms = difference.norm(dim=-1, keepdim=True)
    return difference / norms.clamp_min(1e-12), other.norm(dim=-1).mean(0)
