"""Which tensors of a network are the matrices of linear layers, and which way round they lie.

Used by composers that treat the side of a matrix that inputs come in on otherwise than the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.tasks.models import open_model
from genepool.tasks.network import Network
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of a network.

    Attributes:
        module: the layer; its first argument is its input, `(..., inputs)`.
        transposed: whether its matrix is `(inputs, outputs)`, as in GPT-2's `Conv1D`, and not `(outputs, inputs)`.
    """

    module: torch.nn.Module
    transposed: bool

    @property
    def inputs(self) -> int:
        """How many numbers come in."""
        weight = self.module.weight
        return int(weight.shape[0 if self.transposed else 1])  # type: ignore[index]

    @property
    def outputs(self) -> int:
        """How many numbers go out."""
        weight = self.module.weight
        return int(weight.shape[1 if self.transposed else 0])  # type: ignore[index]


def linear_layers(network: torch.nn.Module) -> dict[str, LinearLayer]:
    """The linear layers of a network, by the name of their matrix.

    One whose matrix is also an embedding, and so has another name first, is left out.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    own = dict(network.named_parameters())
    found = {}
    for path, module in network.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, nn.Linear | Conv1D) and name in own:
            found[name] = LinearLayer(module, isinstance(module, Conv1D))
    return found


def outlined_layers(base: Weights) -> dict[str, LinearLayer]:
    """The same of the network that a base would be loaded as, without loading it; none where its class is not known."""
    kind = open_model(base).kind
    outline = kind.outline(base) if issubclass(kind, Network) else None
    return {} if outline is None else linear_layers(outline)
