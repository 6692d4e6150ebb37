"""DARE followed by TIES (Yu et al., arXiv:2311.03099, section 4): drop and rescale first, then trim and elect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.methods.dare_linear import DENSITY, RESCALE, DareLinear
from genepool.merging.methods.ties import Ties
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import largest


@register
class DareTies(DareLinear):
    """TIES over randomly dropped and rescaled task vectors."""

    name = "dare_ties"
    source = "DARE, Yu et al. 2024, arXiv:2311.03099"
    when = "As DARE, when the skills also conflict in sign; the usual search space of evolutionary merging."
    formula = "TIES of the task vectors m_i t_i / density,  m_i ~ Bernoulli(density)"
    elects = True
    rescales_before_trim = True
    parameters = (
        DENSITY,
        RESCALE,
        Parameter(
            "trim_density", 0.2, "Share of entries TIES keeps after the drop.", per_model=True, low=0, high=1,
            source="TIES' own default",
        ),
        *(p for p in Ties.parameters if p.name not in ("density", "rescale")),
    )  # fmt: skip

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("weight", "trim_density", "rescale", "scope", "zero_sign")

    def kept_ranks(self, values: Mapping[str, Any], numel: int) -> tuple[int, int] | None:
        return largest(values["trim_density"], numel)
