"""The few inner loops torch has no fast operation for: counting bits, random draws, electing signs, scoring vectors.

Every kernel has a formula in torch operations, which says what it computes and runs on any device, and a loop for the
processor in `compiled.py` or `compiled_vectors.py`, which gives the same values. Methods call the functions here with
torch tensors and never ask which of the two ran.
"""

from genepool.merging.kernels.agreement import consensus, stitch
from genepool.merging.kernels.competition import balance, count_scores
from genepool.merging.kernels.counting import count_magnitudes
from genepool.merging.kernels.election import elect
from genepool.merging.kernels.random_draws import drop, uniform

__all__ = ["balance", "consensus", "count_magnitudes", "count_scores", "drop", "elect", "stitch", "uniform"]
