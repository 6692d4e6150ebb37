"""Localize-and-Stitch (He et al., arXiv:2408.13656) without data: each model's largest changes, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from genepool import kernels
from genepool.kernels.selection import keep_count
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.methods.task_arithmetic import WEIGHT
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.tie_places import ExactThresholds


@register
class LocalizeStitch(Method):
    """Keep the largest entries of each task vector; where regions overlap, their mean."""

    name = "localize_stitch"
    source = "Localize-and-Stitch, He et al. 2024, arXiv:2408.13656"
    when = "Skills that live in small regions. Everything outside stays as in the base, so little is forgotten."
    formula = "th0 + sum_i w_i m_i t_i / sum_i m_i,  m_i: the density_i largest entries of |t_i|"
    inputs = "deltas"
    base = "required"
    on_arrays = True
    parameters: ClassVar[tuple[Parameter, ...]] = (
        WEIGHT,
        Parameter(
            "density", 0.05, "Share of entries in this model's region: the largest in magnitude, of equal ones the "
            "first.",
            per_model=True, low=0, high=1, source="section 4, without data: 5% for language, 10% for vision",
        ),
        Parameter(
            "scope", "model", "Localise over the whole vector (model) or within each tensor.", kind=str,
            choices=("model", "tensor"), source="section 3: a share of all parameters",
        ),
    )  # fmt: skip

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        densities = [values["density"] for values in per_model]
        if all(density >= 1 for density in densities):
            return None
        return ExactThresholds([keep_count(d, numel) if d < 1 else None for d in densities], numel=numel)

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("density", "scope")

    def merge(self, group: TensorGroup, survey: ExactThresholds | None) -> Any:
        low = survey.values if survey else [0.0] * len(group.per_model)
        deltas = group.deltas if survey is None else survey.drop(group, group.deltas)
        return kernels.add_scaled(group.base, kernels.stitch(deltas, group.column("weight"), low))
