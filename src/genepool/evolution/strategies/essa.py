"""ESSA: CMA-ES over the singular values of an adapter's factors.

Uses the library pycma through `cma_es`. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from pydantic import Field

from genepool.evolution.strategies import register
from genepool.evolution.strategies.cma_es import CmaEs, CmaEsOptions


class EssaOptions(CmaEsOptions):
    """Options of ESSA: those of CMA-ES, with a first step that suits values near 1."""

    sigma: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="First step size, in widths of the range of a factor: 0.05 is a tenth of a singular value.",
    )


@register(
    "essa",
    title="ESSA",
    source="Korotyshova et al. 2025 (ESSA): CMA-ES over the singular values of LoRA factors; the step size is ours",
    when="Aligning one trained adapter to a score that has no gradient, with forward passes only.",
    usual="singular_values",
)
class Essa(CmaEs):
    """The first candidate is the adapter as it was trained."""

    Options = EssaOptions
