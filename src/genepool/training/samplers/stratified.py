"""The control: every task gets the same part of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.samplers import Sampler

if TYPE_CHECKING:
    import numpy as np


class StratifiedSampler(Sampler):
    """Equal counts; what is left over goes to the tasks in turn."""

    name = "stratified"
    source = "the control of every sampler"
    when = "Several tasks that shall count alike, whatever their sizes."

    def counts(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        count = len(self.arms.names)
        found = np.full(count, size // count)
        left = size % count
        # The turn goes on where the step before ended.
        found[(step * left + np.arange(left)) % count] += 1
        return found
