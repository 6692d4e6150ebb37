"""The few inner loops torch has no fast operation for: counting and ranking magnitudes, random draws, electing signs.

Every kernel has a formula in torch operations, which says what it computes and runs on any device, and a compiled
loop for the processor in `compiled.py`, which gives the same values. Methods call the functions here with torch
tensors and never ask which of the two ran.
"""

from genepool.merging.kernels.counting import count_magnitudes
from genepool.merging.kernels.election import elect, trimmed_sum
from genepool.merging.kernels.overlap import overlap_counts, overlap_mean
from genepool.merging.kernels.random_draws import uniform
from genepool.merging.kernels.ranks import row_ranks

__all__ = ["count_magnitudes", "elect", "overlap_counts", "overlap_mean", "row_ranks", "trimmed_sum", "uniform"]
