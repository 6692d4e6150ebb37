"""The few inner loops torch has no fast operation for: counts, ranks, random draws, elections, scores.

Every kernel has a formula in torch operations, which says what it computes and runs on any device, and a loop for the
processor in `compiled.py` or its neighbours, which gives the same values. Methods call the functions here with
torch tensors and never ask which of the two ran.
"""

from genepool.kernels.agreement import consensus, stitch
from genepool.kernels.buffers import add_scaled, empty
from genepool.kernels.competition import balance, count_scores, scores
from genepool.kernels.counting import count_magnitudes
from genepool.kernels.election import balance_of_votes, elect, l1_norms, trimmed_sum
from genepool.kernels.overlap import overlap_counts, overlap_mean
from genepool.kernels.random_draws import drop, uniform
from genepool.kernels.ranks import drop_by_rank, row_ranks
from genepool.kernels.sums import gram, weighted_sum
from genepool.kernels.variance import keep_largest, squares, variances

__all__ = [
    "add_scaled",
    "balance",
    "balance_of_votes",
    "consensus",
    "count_magnitudes",
    "count_scores",
    "drop",
    "drop_by_rank",
    "elect",
    "empty",
    "gram",
    "keep_largest",
    "l1_norms",
    "overlap_counts",
    "overlap_mean",
    "row_ranks",
    "scores",
    "squares",
    "stitch",
    "trimmed_sum",
    "uniform",
    "variances",
    "weighted_sum",
]
