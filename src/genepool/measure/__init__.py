"""Measuring: intervals, paired comparisons and what was gained and lost, all computed from outcomes per example."""

from genepool.measure.cross import Change, CrossMatrix, Flip, change, changes, mean_difference
from genepool.measure.intervals import (
    Difference,
    Interval,
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
    wilson,
)

__all__ = [
    "Change",
    "CrossMatrix",
    "Difference",
    "Flip",
    "Interval",
    "change",
    "changes",
    "macro_interval",
    "macro_paired_bootstrap",
    "mean_difference",
    "mean_interval",
    "paired_bootstrap",
    "wilson",
]
