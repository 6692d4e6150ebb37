"""Coefficients of the checkpoints of one training run (LCSC): one number for each, summing to 1.

At heart the weights of a linear merge, which is what it opens; its own are the ranges, which may leave the simplex, and
that nothing else has to be said in the study file.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from genepool.evolution.genome import SearchRange
from genepool.evolution.representations import register
from genepool.evolution.representations.merge_parameters import (
    MergeOptions,
    MergeParametersOptions,
    MergeRepresentation,
)


class CheckpointCoefficientsOptions(MergeOptions):
    """One coefficient for each checkpoint, all shifted by one amount so that they sum to 1; the average is the start.

    The defaults are ours: Liu et al. 2024 (arXiv:2404.02241) allow negative coefficients and give no range.
    """

    low: float = Field(default=-1.0, ge=-1e6, le=1e6, description="Smallest coefficient, before the shift.")
    high: float = Field(default=2.0, ge=-1e6, le=1e6, description="Largest coefficient, before the shift.")

    @model_validator(mode="after")
    def _ordered(self) -> CheckpointCoefficientsOptions:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self

    @property
    def how(self) -> str:
        return "a linear combination"

    def as_merge(self) -> MergeParametersOptions:
        weight = SearchRange(low=self.low, high=self.high, sum=1.0)
        return MergeParametersOptions(method="linear", search={"weight": weight})


@register("checkpoint_coefficients", noun="coefficients of checkpoints")
class CheckpointCoefficients(MergeRepresentation[CheckpointCoefficientsOptions]):
    """The skills are checkpoints of one run, and a genome is how much of each the model is.

    A study of them is the same study as one that spells the merge out.
    """
