"""TaskExpert's decoder: experts that project features, a gate for each task token, and a memory of each task.

At every layer the experts are projections of the features of that layer. The token of a task reads them and says, by a
softmax, how much of each expert and of the task's own memory is taken; what is taken is written to the memory, from
which the task's head predicts behind the last layer. Ye and Xu 2023, arXiv:2307.15324, with linear maps where images of
dense predictions have convolutions. Uses torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class LayerFeatures:
    """What frozen models gave for some inputs.

    Attributes:
        states: of every model, of every layer, (rows, places, width of the model).
        mask: which places count, (rows, places).
    """

    states: Sequence[Sequence[torch.Tensor]]
    mask: torch.Tensor


class MemorialExperts(nn.Module):
    """The whole decoder.

    Args:
        widths: of the hidden states of each model; each gives one expert a layer.
        layers: how many layers are read.
        tasks: how many there are.
        size: of an expert's features and of the memory.
        classes: how many a head tells apart.
    """

    def __init__(self, widths: Sequence[int], layers: int, tasks: int, size: int, classes: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.ModuleList(nn.Linear(one, size) for one in widths) for _ in range(layers))
        self.keys = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(size, len(widths) + 1) for _ in range(layers))
        self.writes = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.tokens = nn.Parameter(0.02 * torch.randn(tasks, size))
        self.norm = nn.LayerNorm(size)
        self.heads = nn.ModuleList(nn.Linear(size, classes) for _ in range(tasks))

    def forward(self, features: LayerFeatures, task: int) -> torch.Tensor:
        """Logits, (rows, classes).

        Args:
            features: of some inputs.
            task: its number.
        """
        rows, places = features.mask.shape
        token = self.tokens[task].expand(rows, -1)
        memory = token.new_zeros(rows, places, token.shape[1])
        for number in range(len(self.gates)):
            shares, experts, token = self.gated(features, number, token)
            taken = torch.einsum("rn,rnpe->rpe", shares[:, :-1], experts) + shares[:, -1, None, None] * memory
            memory = memory + functional.gelu(self.writes[number](taken))
        counted = features.mask.unsqueeze(-1).to(memory.dtype)
        mean = (self.norm(memory) * counted).sum(1) / counted.sum(1)
        logits: torch.Tensor = self.heads[task](mean)
        return logits

    def gated(
        self, features: LayerFeatures, number: int, token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a task takes of a layer.

        Args:
            features: of some inputs.
            number: of the layer.
            token: of the task before this layer, (rows, size).

        Returns:
            The share of each expert, and of the memory behind them, (rows, experts + 1); what the experts give, (rows,
            experts, places, size); and the token behind this layer.
        """
        # Layers differ in scale by orders of magnitude; an expert is to see what is there, not how large it is.
        seen = [functional.layer_norm(states[number], states[number].shape[-1:]) for states in features.states]
        own: Sequence[nn.Module] = list(cast(nn.ModuleList, self.experts[number]))
        experts = torch.stack([one(x) for one, x in zip(own, seen, strict=True)], 1)
        mean = experts.mean(1)
        scores = torch.einsum("re,rpe->rp", token, self.keys[number](mean)) / token.shape[1] ** 0.5
        weights = scores.masked_fill(~features.mask, float("-inf")).softmax(1)
        token = token + torch.einsum("rp,rpe->re", weights, self.values[number](mean))
        return self.gates[number](token).softmax(1), experts, token
