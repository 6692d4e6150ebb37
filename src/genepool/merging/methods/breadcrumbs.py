"""Model Breadcrumbs (Davari and Belilovsky, arXiv:2312.06795): leave out the outliers and the negligible entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.kernels.selection import keep_count
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT
from genepool.merging.methods.ties import GIVE_BACK
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import SparseSum

TRIM = (
    Parameter(
        "density", 0.1, "Share of entries kept, the largest below the outliers.", per_model=True, low=0, high=1,
        source="the authors' code searches 0.05 to 0.2",
    ),
    Parameter(
        "gamma", 0.01, "Share of entries dropped as outliers, the largest; fewer where the density needs them.",
        per_model=True, low=0, high=1, source="the authors' code searches 0.001 to 0.01",
    ),
    Parameter(
        "scope", "tensor", "Trim within each tensor or over the whole vector (model).", kind=str,
        choices=("tensor", "model"), source="section 3 masks each layer by itself",
    ),
    GIVE_BACK,
)  # fmt: skip


@register
class Breadcrumbs(SparseSum):
    """Task arithmetic over entries of medium size: neither the largest `gamma` nor those below the next `density`."""

    name = "breadcrumbs"
    source = "Model Breadcrumbs, Davari and Belilovsky 2023, arXiv:2312.06795"
    when = "Many skills added up, when a few very large changes spoil the sum; settings carry over to more skills."
    formula = "th0 + lambda * sum_i w_i m_i t_i,  m_i: ranks of |t_i| from gamma n to (gamma + density) n"
    parameters = (
        WEIGHT,
        *TRIM,
        Parameter("lambda", 0.3, "Factor of the summed task vectors.", source="as task arithmetic; they tune it"),
        NORMALIZE,
    )

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("density", "gamma", "rescale", "scope")

    def kept_ranks(self, values: Mapping[str, Any], numel: int) -> tuple[int, int] | None:
        kept = keep_count(values["density"], numel)
        outliers = min(int(values["gamma"] * numel), numel - kept)
        return None if kept == numel else (outliers + 1, outliers + kept) if kept else (1, 0)
