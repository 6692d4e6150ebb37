"""The network that turns the state of a prompt into the weights of the skills, or weights that are always the same.

Two hidden layers with ReLU between (PSEC, Liu et al. 2025, authors' code). Used by `psec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn

from genepool.training.fit import drawing
from genepool.training.retrieval import check_width

_HIDDEN = 2


class ContextNetwork(nn.Module):
    """States (rows, width) in, weights (rows, skills) out; not bounded.

    Args:
        width: of a state; 0 for weights that are the same for all states.
        skills: how many there are.
        hidden: width of the hidden layers.
    """

    def __init__(self, width: int, skills: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        sizes = [width, *[hidden] * _HIDDEN] if width else [1]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], skills, bias=bool(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.width:
            check_width(states, self.width, "the context")
        x = states if self.width else states.new_ones(len(states), 1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        weights: torch.Tensor = self.out(x)
        return weights

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what was saved of one."""
        with torch.no_grad():
            for name, own in self.named_parameters():
                own.copy_(tensors[name])


def new_context(width: int, skills: int, hidden: int, seed: int) -> ContextNetwork:
    """One whose weights are drawn as torch draws them, by the seed alone, and which begins at the mean of the skills.

    The last layer gives 1 / skills and, of the state, a hundredth of what torch's start would.
    """
    with drawing(seed, 0, "context"):
        made = ContextNetwork(width, skills, hidden)
    with torch.no_grad():
        if width:
            made.out.weight.mul_(0.01)
            made.out.bias.fill_(1 / skills)
        else:
            made.out.weight.fill_(1 / skills)
    return made
