"""The gates of a mixture: for every layer a row for each expert, which a token's hidden state is multiplied by.

From the hidden states or embeddings of prompts, or from chance. Whoever asks models gives `HiddenStates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from genepool import seeding
from genepool.errors import InputError
from genepool.merging.mixture.recipe import ExpertChoice, MixtureRecipe
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

#: The mean over prompts of a model's hidden states before each layer, `(layers, hidden)` float32: (model, prompts,
#: whether the states of a prompt's tokens are averaged, padding left out, or the last token's taken).
HiddenStates = Callable[[Weights, Sequence[str], bool], "torch.Tensor"]
#: The numbers of the tokens of each prompt, begun as the tokenizer begins a text.
TokenNumbers = Callable[[Weights, Sequence[str]], Sequence[Sequence[int]]]
# Above this condition number the gates of a layer hardly tell experts apart (mergekit's limit).
DEGENERATE = 5.0


def gates_of(
    recipe: MixtureRecipe,
    base: Weights,
    experts: Sequence[ExpertChoice],
    layers: int,
    width: int,
    hidden: HiddenStates | None,
    tokens: TokenNumbers | None,
) -> torch.Tensor:
    """The gates of some experts, `(layers, experts, hidden)` float32.

    Args:
        recipe: says how.
        base: the model that is asked.
        experts: their prompts are read; the shared one among them where it has a gate.
        layers, width: of the base.
        hidden, tokens: how prompts are asked and read.

    Raises:
        InputError: a prompt has no token, or the base cannot be asked.
    """
    import torch

    mode = recipe.gate_mode
    if mode in ("random", "uniform_random"):
        generator = seeding.torch_generator(recipe.seed, "gates")
        shape = (layers, len(experts), width)
        if mode == "random":
            return torch.randn(shape, generator=generator)
        # As torch.nn.Linear begins: uniform within 1 / sqrt(inputs).
        return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(width)

    def told(prompts: Sequence[str]) -> torch.Tensor:
        if mode != "cheap_embed":
            assert hidden is not None
            return hidden(base, prompts, mode == "hidden_avg")
        assert tokens is not None
        embedding = _embedding(base)
        total = torch.zeros(width)
        for numbers in tokens(base, prompts):
            for number in numbers:
                total += base.read_rows(embedding, number, number + 1)[0].to(torch.float32)
        direction: torch.Tensor = total / total.norm().clamp(min=1e-8)
        return direction.expand(layers, width)

    rows = []
    for expert in experts:
        row = told(expert.positive_prompts)
        if expert.negative_prompts:
            row = row - told(expert.negative_prompts)
        rows.append(row / row.norm(dim=-1, keepdim=True).clamp(min=1e-8))
    return torch.stack(rows, 1)


def degenerate_layers(gates: torch.Tensor) -> list[int]:
    """The layers whose gates are nearly alike, so that some experts would hardly be chosen."""
    import torch

    return [layer for layer, rows in enumerate(gates) if float(torch.linalg.cond(rows)) > DEGENERATE]


def _embedding(base: Weights) -> str:
    name = "model.embed_tokens.weight"
    if name not in base:
        raise InputError(
            "has no token embedding of this name", where=f"{base.name}:{name}", fix="Say gate_mode: hidden"
        )
    return name
