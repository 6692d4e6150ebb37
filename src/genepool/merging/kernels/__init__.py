"""The few inner loops torch has no fast operation for: counting magnitudes, random draws, electing signs.

Every kernel has a formula in torch operations, which says what it computes and runs on any device, and a compiled
loop for the processor in `compiled.py`, which gives the same values. Methods call the functions here with torch
tensors and never ask which of the two ran.
"""

from genepool.merging.kernels.counting import count_magnitudes
from genepool.merging.kernels.election import elect
from genepool.merging.kernels.random_draws import uniform

__all__ = ["count_magnitudes", "elect", "uniform"]
