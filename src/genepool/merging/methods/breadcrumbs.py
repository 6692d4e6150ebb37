"""Model Breadcrumbs (Davari and Belilovsky, arXiv:2312.06795): leave out the outliers and the negligible entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.selection import keep_count
from genepool.merging.group import TensorGroup
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT
from genepool.merging.methods.ties import GIVE_BACK
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import SparseSum
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    from genepool.kernels.stored import StoredVectors

TRIM = (
    Parameter(
        "density", 0.1, "Share of entries kept: the largest below the outliers, of equal ones the "
        "first.", per_model=True,
        low=0, high=1, source="the authors' code searches 0.05 to 0.2",
    ),
    Parameter(
        "gamma", 0.01, "Share of entries dropped as outliers: the largest. Fewer are dropped if the density needs "
        "them.",
        per_model=True, low=0, high=1, source="the authors' code searches 0.001 to 0.01",
    ),
    Parameter(
        "scope", "tensor", "Trim within each tensor, within each of its rows, or over the whole vector (model).",
        kind=str, choices=("tensor", "row", "model"),
        source="section 3 masks each layer by itself; the authors' code each row",
    ),
    GIVE_BACK,
)  # fmt: skip


def keep_ranks(rows: Any, first: int, last: int) -> None:
    """Sets to zero, in place, what is not of these ranks within its row, from 1 for the largest magnitude.

    Of equal magnitudes the first are the larger, so that exactly as many stay as should.

    Args:
        rows: `(rows, columns)`, an array or a tensor.
        first, last: the ranks.
    """
    import numpy as np

    if isinstance(rows, np.ndarray):
        order = np.argsort(-abs(rows), axis=-1, kind="stable")
        np.put_along_axis(rows, order[..., : first - 1], 0.0, -1)
        np.put_along_axis(rows, order[..., last:], 0.0, -1)
        return
    order = rows.abs().argsort(dim=-1, descending=True, stable=True)
    rows.scatter_(-1, order[..., : first - 1], 0.0)
    rows.scatter_(-1, order[..., last:], 0.0)


@register
class Breadcrumbs(SparseSum):
    """Task arithmetic on entries of medium size: drop the largest `gamma`, keep the next `density`."""

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

    exact = True

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("density", "gamma", "rescale", "scope")

    def kept_ranks(self, values: Mapping[str, Any], numel: int) -> tuple[int, int] | None:
        kept = keep_count(values["density"], numel)
        outliers = min(int(values["gamma"] * numel), numel - kept)
        return None if kept == numel else (outliers + 1, outliers + kept) if kept else (1, 0)

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        if shared["scope"] == "row":
            # The rows of a block say it themselves: nothing is to be found out about the whole.
            per_model = [{**values, "density": 1.0} for values in per_model]
        return super().survey(shared, per_model, numel)

    def stored(self, group: TensorGroup) -> StoredVectors | None:
        return None if group.shared["scope"] == "row" else group.stored

    def prepared(self, group: TensorGroup) -> Any:
        deltas = group.deltas
        if group.shared["scope"] != "row":
            return deltas
        for delta, values in zip(deltas, group.per_model, strict=True):
            if (ranks := self.kept_ranks(values, delta.shape[-1])) is not None:
                keep_ranks(delta, *ranks)
        return deltas
