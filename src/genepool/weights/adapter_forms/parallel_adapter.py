"""The parallel adapter of the unified view: a small MLP beside each layer's MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class ParallelAdapterOptions(FormOptions):
    """Options of the parallel adapter."""

    bottleneck: int = Field(default=64, ge=1, le=65536, description="Hidden entries of the adapter.")
    scale: float = Field(
        default=4.0, gt=0, description="What the adapter gives is multiplied by this (the paper: 4; its code: 1)."
    )
    scaling: Literal["fixed", "learned"] = Field(
        default="fixed", description="Whether the scale stays, or is trained, one number for each layer."
    )


class ParallelAdapter(NetworkForm):
    """MLP(x) + s up(relu(down(x))), on the x that the MLP reads; up begins at 0, down as LoRA's A."""

    name = "parallel_adapter"
    source = "He et al., Towards a Unified View of Parameter-Efficient Transfer Learning (arXiv:2110.04366)"
    when = "A change of what the MLPs compute that is not linear."
    why_not = "its hidden entries pass through a ReLU"
    traps = "It stays a module: it costs time in every step, and merges do not take it."
    Options = ParallelAdapterOptions
    options: ParallelAdapterOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        found: Shapes = {}
        for mlp in sites.mlps:
            found |= bottleneck_shapes(mlp.last.module, mlp.first.inputs, self.options.bottleneck)
            if self.options.scaling == "learned":
                found[f"{mlp.last.module}.scale"] = (1,)
        return found

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        found = bottleneck_begin(beginning, self.shapes(beginning.sites))
        for name in found:
            if name.endswith(".scale"):
                found[name].fill_(self.options.scale)
        return found

    def attach(self, attached: Attached) -> None:
        for mlp in attached.sites.mlps:
            # The layer that reads first leaves what it read for the one that gives last.
            read: list[torch.Tensor] = []

            def listen(plain: object, x: torch.Tensor, read: list[torch.Tensor] = read) -> torch.Tensor:
                read[:] = [x]
                return plain(x)  # type: ignore[operator,no-any-return]

            def add(
                plain: object, x: torch.Tensor, read: list[torch.Tensor] = read, name: str = mlp.last.module
            ) -> torch.Tensor:
                scale = attached.tensors.get(f"{name}.scale", self.options.scale)
                return plain(x) + scale * bottleneck(attached, name, read.pop())  # type: ignore[operator,no-any-return]

            attached.replace(mlp.first.module, listen)
            attached.replace(mlp.last.module, add)


def bottleneck_shapes(name: str, width: int, hidden: int) -> Shapes:
    """The shapes of an adapter from `width` entries through `hidden` and back."""
    return {
        f"{name}.down": (hidden, width),
        f"{name}.down_bias": (hidden,),
        f"{name}.up": (width, hidden),
        f"{name}.up_bias": (width,),
    }


def bottleneck_begin(beginning: Beginning, shapes: Shapes) -> dict[str, torch.Tensor]:
    """The tensors of adapters at the start: they give 0."""
    import torch

    return {
        name: beginning.kaiming(name, shape) if name.endswith(".down") else torch.zeros(shape)
        for name, shape in shapes.items()
    }


def bottleneck(attached: Attached, name: str, x: torch.Tensor) -> torch.Tensor:
    """up(relu(down(x))) of the adapter of this name, (..., width)."""
    from torch.nn.functional import linear

    tensors = attached.tensors
    inner = linear(x, tensors[f"{name}.down"], tensors[f"{name}.down_bias"]).relu()
    return linear(inner, tensors[f"{name}.up"], tensors[f"{name}.up_bias"])
