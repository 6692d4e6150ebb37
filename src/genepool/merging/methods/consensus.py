"""Consensus Merging (Wang et al., arXiv:2405.07813): task arithmetic on the entries that several tasks need."""

from __future__ import annotations

from typing import Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.methods.task_arithmetic import WEIGHT
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register


@register
class Consensus(Method):
    """Drop entries that no task needs (catastrophic) or only one task needs (selfish), and add the rest."""

    name = "consensus"
    source = "TALL-masks and Consensus Merging, Wang et al. 2024, arXiv:2405.07813"
    when = "Many skills (8 and more), where entries that serve one skill alone cost the others more than they give."
    formula = "th0 + lambda * m sum_i w_i t_i,  m: at least k models have |t_i| > threshold_i |sum_j t_j - t_i|"
    inputs = "deltas"
    base = "required"
    models = (2, None)
    on_arrays = True
    parameters = (
        WEIGHT,
        Parameter(
            "threshold", 0.4, "How far this model's change must outweigh the others' for its mask to hold an entry.",
            per_model=True, low=0,
            source="middle of the 0.2 to 0.6 that the authors search per task on validation data",
        ),
        Parameter(
            "needed", 2, "How many masks must hold an entry; 1 drops only what no task needs, 0 drops nothing.",
            kind=int, low=0, source="section 5: k = 2",
        ),
        Parameter("lambda", 0.3, "Factor of the summed task vectors.", source="task arithmetic, 8 vision tasks"),
    )  # fmt: skip

    def merge(self, group: TensorGroup, survey: Any) -> Any:
        merged = kernels.consensus(
            group.deltas, group.column("weight"), group.column("threshold"), group.shared["needed"]
        )
        return kernels.add_scaled(group.base, merged, group.shared["lambda"])
