"""Measuring: intervals, paired comparisons and what was gained and lost, all computed from outcomes per example."""

from genepool.measure.comparison import AbilityComparison, Comparison, compare, compare_many
from genepool.measure.compatibility import Compatibility, FlipMatrix, compatibility
from genepool.measure.cross import Change, CrossMatrix, Flip, change, changes, mean_difference
from genepool.measure.gates import Gate, GateResult, check_gates, load_gates
from genepool.measure.intervals import (
    Difference,
    Interval,
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
    wilson,
)
from genepool.measure.significance import benjamini_hochberg, detectable_difference, examples_needed, holm, mcnemar

__all__ = [
    "AbilityComparison",
    "Change",
    "Comparison",
    "Compatibility",
    "CrossMatrix",
    "Difference",
    "Flip",
    "FlipMatrix",
    "Gate",
    "GateResult",
    "Interval",
    "benjamini_hochberg",
    "change",
    "changes",
    "check_gates",
    "compare",
    "compare_many",
    "compatibility",
    "detectable_difference",
    "examples_needed",
    "holm",
    "load_gates",
    "macro_interval",
    "macro_paired_bootstrap",
    "mcnemar",
    "mean_difference",
    "mean_interval",
    "paired_bootstrap",
    "wilson",
]
