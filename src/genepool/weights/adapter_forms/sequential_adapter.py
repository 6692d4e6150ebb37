"""The sequential adapter: a small MLP that reads what each layer's MLP gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.weights.adapter_forms.parallel_adapter import bottleneck, bottleneck_begin, bottleneck_shapes
from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class SequentialAdapterOptions(FormOptions):
    """Options of the sequential adapter."""

    bottleneck: int = Field(default=64, ge=1, le=65536, description="Hidden entries of the adapter.")


class SequentialAdapter(NetworkForm):
    """h + up(relu(down(h))), with h what the MLP gives, before it is added to the residual stream."""

    name = "sequential_adapter"
    source = "Pfeiffer et al., AdapterFusion (arXiv:2005.00247), as He et al. write it (arXiv:2110.04366)"
    when = "The adapter that most comparisons name; the parallel one is usually better."
    why_not = "its hidden entries pass through a ReLU"
    traps = "It stays a module: it costs time in every step, and merges do not take it."
    Options = SequentialAdapterOptions
    options: SequentialAdapterOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        found: Shapes = {}
        for mlp in sites.mlps:
            found |= bottleneck_shapes(mlp.last.module, mlp.last.outputs, self.options.bottleneck)
        return found

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        return bottleneck_begin(beginning, self.shapes(beginning.sites))

    def attach(self, attached: Attached) -> None:
        for mlp in attached.sites.mlps:

            def add(plain: object, x: torch.Tensor, name: str = mlp.last.module) -> torch.Tensor:
                h: torch.Tensor = plain(x)  # type: ignore[operator]
                return h + bottleneck(attached, name, h)

            attached.replace(mlp.last.module, add)
