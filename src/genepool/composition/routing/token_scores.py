"""X-LoRA's router: scores of one hidden state for each token decide how much every layer uses of each skill.

The hidden state is the last one of a pass of the base (`two_pass`), or what comes into one of the layers. Uses
`adapter_mixture` and the layers of `steering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from genepool.composition.routing.adapter_mixture import TokenRouter
from genepool.composition.routing.layer_gates import layer_numbers
from genepool.composition.steering.layers import decoder_layers
from genepool.errors import InputError
from genepool.tasks.network import Network


class TokenScores(TokenRouter):
    """`softmax((W h + b) / T)` for each token, the same for all layers or of each layer's own.

    Args:
        weight: W, (outputs, width): outputs are the skills, or those of each matrix after one another.
        bias: b, (outputs,).
        temperature: T.
        names: of the matrices that skills change, in order.
        layerwise: whether each of them has scores of its own.

    Attributes:
        now: the weights of the tokens that are read, (rows, tokens, 1 or matrices, skills); None before they are known.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, temperature: float, names: Sequence[str], *, layerwise: bool
    ) -> None:
        self._weight, self._bias, self._temperature = weight, bias, temperature
        self._places = {name: place if layerwise else 0 for place, name in enumerate(names)}
        self._scored = len(names) if layerwise else 1
        self.now: torch.Tensor | None = None

    def score(self, hidden: torch.Tensor) -> None:
        """Decides the weights of the tokens of a hidden state, (rows, tokens, width).

        Raises:
            InputError: it has another width.
        """
        if hidden.shape[-1] != self._weight.shape[1]:
            raise InputError(
                f"its router reads {self._weight.shape[1]} numbers, and hidden states have {hidden.shape[-1]}",
                fix="Compose it again",
            )
        logits = hidden.float() @ self._weight.to(hidden.device).T + self._bias.to(hidden.device)
        self.now = (logits.view(*logits.shape[:-1], self._scored, -1) / self._temperature).softmax(-1)

    def weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor | None:
        """See `TokenRouter.weights`."""
        return None if self.now is None else self.now[..., self._places[name], :]


class EarlyScores(TokenScores):
    """The same of what comes into one layer; the layers before it are the base's.

    Args:
        weight, bias, temperature, names, layerwise: as for `TokenScores`.
        reads: the layer, from 0.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        temperature: float,
        names: Sequence[str],
        *,
        layerwise: bool,
        reads: int,
    ) -> None:
        super().__init__(weight, bias, temperature, names, layerwise=layerwise)
        self._reads = reads
        self._early: set[str] = set()

    def attach(self, network: Network) -> Sequence[Any]:
        """See `TokenRouter.attach`.

        Raises:
            InputError: there is no such layer.
        """
        layers = decoder_layers(network.model, network.title)
        if self._reads >= len(layers):
            raise InputError(
                f"there is no layer {self._reads}, the base has {len(layers)}",
                where="--set reads",
                fix=f"Name 0 to {len(layers) - 1}",
            )
        numbers = layer_numbers(self._places, network)
        self._early = {name for name, number in numbers.items() if number < self._reads}

        def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.score(args[0] if args else kwargs["hidden_states"])

        return [layers[self._reads].register_forward_pre_hook(look, with_kwargs=True)]

    def weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor | None:
        """See `TokenRouter.weights`."""
        return None if name in self._early else super().weights(name, inputs)
