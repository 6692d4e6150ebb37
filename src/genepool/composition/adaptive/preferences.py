"""Training a head that chooses temperatures: of two answers to one prompt, the better one's temperature is preferred.

The loss of a pair is `-log sigmoid(beta (log p(tau_better) - log p(tau_worse)))` (Dhuliawala et al. 2024, latent
preference optimisation). An answer's `log p` is that of its temperature at the prompt's end, or the mean over its
tokens. The model is frozen: its hidden states are computed once. Uses tasks and training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genepool.seeding import numpy_generator
from genepool.tasks.decoding import DEFAULT_BATCH, batches
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.tokenized import padded
from genepool.training import Optimisation, Optimiser, fit

# Of a prompt's pairs, how many are kept at most: a prompt with many answers must not outweigh the others.
_PAIRS = 16


@dataclass(frozen=True)
class ScoredAnswer:
    """One drawn answer.

    Attributes:
        prompt: number of its prompt.
        temperature: number of the temperature it was drawn at.
        text: what was written.
        score: how good it is.
    """

    prompt: int
    temperature: int
    text: str
    score: float


def preferred_pairs(answers: Sequence[ScoredAnswer], seed: int) -> list[tuple[int, int]]:
    """(better, worse): numbers of answers to one prompt, drawn at different temperatures; at most 16 a prompt."""
    by_prompt: dict[int, list[int]] = {}
    for number, one in enumerate(answers):
        by_prompt.setdefault(one.prompt, []).append(number)
    found = []
    for prompt, numbers in by_prompt.items():
        pairs = [
            (a, b)
            for a in numbers
            for b in numbers
            if answers[a].score > answers[b].score and answers[a].temperature != answers[b].temperature
        ]
        order = numpy_generator(seed, "pairs", prompt).permutation(len(pairs))[:_PAIRS]
        found += [pairs[int(at)] for at in order]
    return found


def head_inputs(model: LanguageModel, prompts: Sequence[str], texts: Sequence[str]) -> list[torch.Tensor]:
    """What the model's output layer is given at the places that predict each text's tokens: (tokens or 1, width).

    Args:
        model: reads them.
        prompts, texts: a text behind its prompt; the prompt's end alone where it is empty.
    """
    heads = [model.encode(prompt) for prompt in prompts]
    tails = [model.read_alone(text) for text in texts]
    rows = [(head + tail)[: model.context] for head, tail in zip(heads, tails, strict=True)]
    found: dict[int, torch.Tensor] = {}
    seen: list[torch.Tensor] = []
    handle = model.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            for chosen in batches([len(row) for row in rows], DEFAULT_BATCH, model.logit_bytes):
                ids, mask = padded([rows[at] for at in chosen], model.device)
                seen.clear()
                model.model(input_ids=ids, attention_mask=mask, use_cache=False)
                for line, at in enumerate(chosen):
                    first, last = len(heads[at]) - 1, max(len(heads[at]), len(rows[at]) - 1)
                    found[at] = seen[0][line, first:last].float().cpu()
    finally:
        handle.remove()
    return [found[at] for at in range(len(rows))]


def train_head(
    states: Sequence[torch.Tensor],
    answers: Sequence[ScoredAnswer],
    pairs: Sequence[tuple[int, int]],
    temperatures: int,
    *,
    beta: float,
    steps: int,
    learning_rate: float,
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """A linear head.

    Args:
        states: of every answer, the hidden states at the places that choose, (places, width).
        answers: what was drawn.
        pairs: which answer is better than which.
        temperatures: their number.
        beta: how sharply a preference counts.
        steps, learning_rate: of Adam, all pairs in every step.

    Returns:
        Weight (temperatures, width), bias (temperatures,), and the loss of every step.
    """
    flat = torch.cat(list(states))
    owners = torch.repeat_interleave(torch.arange(len(states)), torch.tensor([len(one) for one in states]))
    counts = torch.bincount(owners, minlength=len(states))
    chosen = torch.tensor([one.temperature for one in answers])[owners]
    better, worse = torch.tensor(pairs).T
    # It begins without a preference.
    head = {
        "weight": torch.nn.Parameter(torch.zeros(temperatures, flat.shape[1])),
        "bias": torch.nn.Parameter(torch.zeros(temperatures)),
    }
    # Learned on states of unit variance, so that one learning rate serves every model; folded into the head after.
    mean, spread = flat.mean(0), flat.std(0, correction=0).clamp_min(1e-6)
    scaled = (flat - mean) / spread
    losses: list[float] = []

    def put(_step: int) -> float:
        with torch.enable_grad():
            logs = (scaled @ head["weight"].T + head["bias"]).log_softmax(-1)
            own = logs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
            means = torch.zeros(len(states)).index_add(0, owners, own) / counts
            loss = -torch.nn.functional.logsigmoid(beta * (means[better] - means[worse])).mean()
            gradients = torch.autograd.grad(loss, list(head.values()))
        for parameter, gradient in zip(head.values(), gradients, strict=True):
            parameter.grad = gradient
        losses.append(loss.item())
        return losses[-1]

    fit(Optimiser(head, Optimisation(steps, learning_rate, 0)), put, lambda _: None)
    weight = head["weight"].detach() / spread
    return weight, head["bias"].detach() - weight @ mean, losses
