"""TIES-Merging (Yadav et al., arXiv:2306.01708): trim, elect signs, average what agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import SparseSum, largest

SCOPE = Parameter(
    "scope",
    "model",
    "Trim over the whole vector (model) or within each tensor.",
    kind=str,
    choices=("model", "tensor"),
    source="section 3.1 trims the whole vector",
)
ZERO_SIGN = Parameter(
    "zero_sign",
    "majority",
    "Sign of an entry whose votes cancel: the majority's over the scope, or always positive.",
    kind=str,
    choices=("majority", "positive"),
    source="the authors' resolve_zero_signs",
)
VOTE_WEIGHT = Parameter("weight", 1.0, "Weight of this model in the vote and the mean.", per_model=True)
AVERAGE = Parameter("normalize", True, "Average the agreeing entries rather than add them.", kind=bool)
GIVE_BACK = Parameter(
    "rescale",
    "none",
    "Give each tensor (or the whole vector) back the L1 norm that trimming took.",
    kind=str,
    choices=("none", "l1"),
)


@register
class Ties(SparseSum):
    """Keep the largest entries of each task vector, elect a sign per entry, average the entries that agree."""

    name = "ties"
    source = "TIES-Merging, Yadav et al. 2023, arXiv:2306.01708"
    when = "Several skills whose changes conflict in sign; needs no tuning at its defaults."
    formula = "th0 + lambda * mean over agreeing i of w_i trim_density(t_i)"
    elects = True
    parameters = (
        VOTE_WEIGHT,
        Parameter(
            "density", 0.2, "Share of entries kept: the largest in magnitude.", per_model=True, low=0, high=1,
            source="section 4: top 20%",
        ),
        Parameter("lambda", 1.0, "Factor of the merged task vector.", source="section 4: 1 without validation data"),
        AVERAGE,
        GIVE_BACK,
        SCOPE,
        ZERO_SIGN,
    )  # fmt: skip

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("weight", "density", "rescale", "scope", "zero_sign")

    def kept_ranks(self, values: Mapping[str, Any], numel: int) -> tuple[int, int] | None:
        return largest(values["density"], numel)
