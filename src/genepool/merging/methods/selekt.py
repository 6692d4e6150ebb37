"""SeleKT's projection (Aggarwal et al., arXiv:2503.03656): a fine-tune with all but its largest changes undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool import kernels
from genepool.kernels.selection import keep_count
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.tie_places import ExactThresholds


@register
class SeleKT(Method):
    """The base with the largest entries of the fine-tune's task vector, unscaled; the rest goes back to the base.

    The authors project at intervals during training; here it is one projection of a finished model. Embeddings, head
    and norms are treated like the rest.
    """

    name = "selekt"
    source = "SeleKT (NextCoder), Aggarwal et al. 2025, arXiv:2503.03656"
    when = "One fine-tune that has forgotten too much of its base."
    formula = "th0 + top_alpha(th - th0)"
    inputs = "deltas"
    base = "required"
    models = (1, 1)
    on_arrays = True
    parameters = (
        Parameter(
            "alpha", 0.05, "Share of entries kept: the largest in magnitude, of equal ones the first. At least one, "
            "except at zero.", low=0, high=1, source="the authors' code",
        ),
        Parameter(
            "scope", "tensor", "Choose within each tensor or over the whole vector (model).",
            kind=str, choices=("tensor", "model"), source="the authors' code works tensor by tensor",
        ),
    )  # fmt: skip

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        alpha = shared["alpha"]
        return ExactThresholds([keep_count(alpha, numel)], numel=numel) if alpha < 1 else None

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("alpha", "scope")

    def merge(self, group: TensorGroup, survey: ExactThresholds | None) -> Any:
        delta = group.deltas[0]
        if survey is not None:
            survey.drop(group, group.deltas)
            delta[abs(delta) < survey.values[0]] = 0.0
        return kernels.add_scaled(group.base, delta)
