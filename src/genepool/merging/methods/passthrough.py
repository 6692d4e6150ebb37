"""One model's tensors as they are: for stacking slices of layers, and for scaling chosen tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.parameters import Parameter

if TYPE_CHECKING:
    import torch


@register
class Passthrough(Method):
    """`scale * x` of the only model of the slice."""

    name = "passthrough"
    source = "SOLAR depth up-scaling, Kim et al. 2023, arXiv:2312.15166"
    when = "Building a deeper or shallower model from slices of layers."
    formula = "scale * x"
    inputs = "tensors"
    base = "unused"
    models = (1, 1)
    parameters = (
        Parameter("scale", 1.0, "Factor of the tensor; conditions choose which tensors it applies to.", per_model=True),
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        scale = group.column("scale")[0]
        return group.tensors[0] if scale == 1 else group.tensors[0] * scale
