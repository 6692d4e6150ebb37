"""Measuring: intervals, paired comparisons and what was gained and lost, all computed from outcomes per example."""

from genepool.measure.abstention import Abstention, Guarantee, abstention, guarantee
from genepool.measure.calibration import Calibration, calibration
from genepool.measure.comparison import Comparison, TaskComparison, compare, compare_many
from genepool.measure.compatibility import Compatibility, FlipMatrix, compatibility
from genepool.measure.composition import CrossCapability, SkillMix, WeakestLink, skill_mix, weakest_link
from genepool.measure.consistency import Consistency, consistency, consistency_of
from genepool.measure.cross_matrix import CrossMatrix, Flip, PairedChange, change, changes, mean_difference
from genepool.measure.gates import Gate, GateResult, check_gated_tasks, check_gates, load_gates
from genepool.measure.intervals import (
    NOT_MEASURED,
    Difference,
    Interval,
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
    wilson,
)
from genepool.measure.lifelong import ContinualAccuracy, LifelongMetrics, continual_accuracy, lifelong_metrics
from genepool.measure.lifelong_log import read_log
from genepool.measure.profile import ConfidenceProfile, Profile, ProfileRow, profile
from genepool.measure.significance import (
    ALPHA,
    benjamini_hochberg,
    detectable_difference,
    examples_needed,
    holm,
    mcnemar,
)
from genepool.measure.transfer import (
    Complementary,
    RankAgreement,
    TransferMatrix,
    agreement,
    complementary,
    complementary_knowledge,
    transfer_matrix,
)

__all__ = [
    "ALPHA",
    "NOT_MEASURED",
    "Abstention",
    "Calibration",
    "Comparison",
    "Compatibility",
    "Complementary",
    "ConfidenceProfile",
    "Consistency",
    "ContinualAccuracy",
    "CrossCapability",
    "CrossMatrix",
    "Difference",
    "Flip",
    "FlipMatrix",
    "Gate",
    "GateResult",
    "Guarantee",
    "Interval",
    "LifelongMetrics",
    "PairedChange",
    "Profile",
    "ProfileRow",
    "RankAgreement",
    "SkillMix",
    "TaskComparison",
    "TransferMatrix",
    "WeakestLink",
    "abstention",
    "agreement",
    "benjamini_hochberg",
    "calibration",
    "change",
    "changes",
    "check_gated_tasks",
    "check_gates",
    "compare",
    "compare_many",
    "compatibility",
    "complementary",
    "complementary_knowledge",
    "consistency",
    "consistency_of",
    "continual_accuracy",
    "detectable_difference",
    "examples_needed",
    "guarantee",
    "holm",
    "lifelong_metrics",
    "load_gates",
    "macro_interval",
    "macro_paired_bootstrap",
    "mcnemar",
    "mean_difference",
    "mean_interval",
    "paired_bootstrap",
    "profile",
    "read_log",
    "skill_mix",
    "transfer_matrix",
    "weakest_link",
    "wilson",
]
