"""DARE followed by TIES (Yu et al., arXiv:2311.03099, section 4): drop and rescale first, then trim and elect."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genepool.merging.method import TensorGroup, register
from genepool.merging.methods.dare_linear import DENSITY, RESCALE, dropped_deltas
from genepool.merging.methods.ties import Ties
from genepool.merging.parameters import Parameter


@register
class DareTies(Ties):
    """TIES over randomly dropped and rescaled task vectors."""

    name = "dare_ties"
    source = "DARE, Yu et al. 2024, arXiv:2311.03099"
    when = "As DARE, when the skills also conflict in sign; the usual search space of evolutionary merging."
    formula = "TIES of the task vectors m_i t_i / density,  m_i ~ Bernoulli(density)"
    parameters = (
        DENSITY,
        RESCALE,
        Parameter(
            "trim_density", 0.2, "Share of entries TIES keeps after the drop.", per_model=True, low=0, high=1,
            source="TIES' own default",
        ),
        *(p for p in Ties.parameters if p.name not in ("density", "rescale")),
    )  # fmt: skip
    density = "trim_density"

    def prepared(self, group: TensorGroup) -> Sequence[torch.Tensor]:
        return dropped_deltas(group)

    def rescaled(self, kept: torch.Tensor, delta: torch.Tensor, group: TensorGroup) -> torch.Tensor:
        # `rescale` belongs to the drop here, which has already applied it.
        return kept
