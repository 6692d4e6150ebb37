"""A gate in front of every layer of a language model: it reads what comes in, and weighs the skills of the whole layer.

The router of `lora_flow`, and of `k_shot` behind its choice of adapters. Uses `adapter_mixture` and the layers of
`steering`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from genepool.composition.routing.adapter_mixture import TokenRouter
from genepool.composition.steering.layers import decoder_layers
from genepool.errors import InputError
from genepool.tasks.network import Network


def layer_numbers(names: Iterable[str], network: Network) -> dict[str, int]:
    """The layer of the network that each matrix is in, by its name.

    Raises:
        InputError: one is in none, or the layers cannot be told apart.
    """
    layers = decoder_layers(network.model, network.title)
    owners = {id(one): number for number, layer in enumerate(layers) for one in layer.parameters()}
    own = dict(network.model.named_parameters())
    for name in names:
        if id(own[name]) not in owners:
            raise InputError(
                f"a skill changes {name}, which is outside of the layers that the router reads",
                where=network.title,
                fix="Name adapters of the layers alone, or compose with arrow",
            )
    return {name: owners[id(own[name])] for name in names}


class LayerGates(TokenRouter):
    """`softmax(W_l h_l / T) + b_l` for layer l, h_l what comes into it, before its norm.

    Args:
        gates: W, (layers, skills, width).
        biases: b, (layers, skills); none are added when None.
        temperature: T.
        numbers: the layer of each matrix, by its name.

    Attributes:
        now: of each layer, the weights of the tokens that it reads, (rows, tokens, skills).
    """

    def __init__(
        self, gates: torch.Tensor, biases: torch.Tensor | None, temperature: float, numbers: Mapping[str, int]
    ) -> None:
        self._gates, self._biases, self._temperature, self._numbers = gates, biases, temperature, numbers
        self.now: dict[int, torch.Tensor] = {}

    def attach(self, network: Network) -> Sequence[Any]:
        """See `TokenRouter.attach`.

        Raises:
            InputError: the gates are of other layers than the network has.
        """
        layers = decoder_layers(network.model, network.title)
        width = network.model.config.get_text_config().hidden_size
        if (len(layers), width) != (len(self._gates), self._gates.shape[2]):
            raise InputError(
                f"its gates are of {len(self._gates)} layers of {self._gates.shape[2]}, and the base has "
                f"{len(layers)} of {width}",
                where=network.title,
                fix="Compose it again",
            )
        return [layer.register_forward_pre_hook(self._hook(n), with_kwargs=True) for n, layer in enumerate(layers)]

    def weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        """See `TokenRouter.weights`."""
        return self.now[self._numbers[name]]

    def weights_before(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """The weights of a layer for what comes into it, (..., width) -> (..., skills)."""
        gate = self._gates[number].to(hidden.device)
        found = (hidden.float() @ gate.T / self._temperature).softmax(-1)
        return found if self._biases is None else found + self._biases[number].to(hidden.device)

    def _hook(self, number: int) -> Any:
        def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.now[number] = self.weights_before(number, args[0] if args else kwargs["hidden_states"])

        return look
