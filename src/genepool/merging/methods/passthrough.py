"""One model's tensors as they are: for stacking slices of layers, and for scaling chosen tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.weighted_sum import SumFactors, WeightedSum


@register
class Passthrough(WeightedSum):
    """`scale * x` of the only model of the slice."""

    name = "passthrough"
    source = "SOLAR depth up-scaling, Kim et al. 2023, arXiv:2312.15166"
    when = "To build a deeper or shallower model from slices of layers."
    formula = "scale * x"
    inputs = "tensors"
    base = "unused"
    models = (1, 1)
    parameters = (
        Parameter("scale", 1.0, "Factor of the tensor; conditions choose which tensors it applies to.", per_model=True),
    )

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        return SumFactors([per_model[0]["scale"]])
