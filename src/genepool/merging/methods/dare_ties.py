"""DARE followed by TIES (Yu et al., arXiv:2311.03099, section 4): drop and rescale first, then trim and elect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import register
from genepool.merging.methods.dare_linear import DENSITY, RESCALE, dropped_deltas, l1_norms, rescaling
from genepool.merging.methods.ties import Ties, TrimSurvey
from genepool.merging.parameters import Parameter
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    import torch


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

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        survey = TrimSurvey(self, shared, per_model, numel, norms=l1_norms if shared["rescale"] == "l1" else None)
        return survey if survey.passes else None

    def prepared(self, group: TensorGroup) -> torch.Tensor:
        # Trimming looks at each vector by itself, so rescaling can wait until it is known.
        return dropped_deltas(group)

    def factors(self, group: TensorGroup, survey: TrimSurvey | None) -> list[float]:
        return rescaling(group, survey.l1_norms if survey else None)
