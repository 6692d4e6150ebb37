"""What a context reads of a prompt: the observation of a policy, the mean last hidden state of any other model.

Uses tasks. The states of prompts that come again are remembered, since a fit asks the same ones hundreds of times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genepool.composition.routing.routed_model import input_vectors
from genepool.tasks.models.policy import Policy
from genepool.tasks.network import Network

# Prompts whose states are remembered: a few MB.
_REMEMBERED = 50_000


class PromptStates:
    """The states of prompts.

    Args:
        network: the base; its layers give what they give without any skill while a prompt is read.
        hidden: the last hidden state of a policy too, instead of what it observes.
    """

    def __init__(self, network: Network, *, hidden: bool = False) -> None:
        self._network, self._observed = network, isinstance(network, Policy) and not hidden
        self._known: dict[str, torch.Tensor] = {}

    def of(self, prompts: Sequence[str]) -> torch.Tensor:
        """Shape (prompts, width), float32."""
        new = [one for one in dict.fromkeys(prompts) if one not in self._known]
        if new:
            if len(self._known) + len(new) > _REMEMBERED:
                self._known.clear()
                new = list(dict.fromkeys(prompts))
            self._known |= dict(zip(new, self._read(new), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])

    def of_layers(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same of what a policy's layers give for a batch of observations, the observations first."""
        return layers[0 if self._observed else -1].float()

    def _read(self, prompts: Sequence[str]) -> torch.Tensor:
        if not self._observed:
            return input_vectors(self._network, prompts)
        return torch.stack([layers[0][0] for layers in self._network.hidden_states(prompts)])
