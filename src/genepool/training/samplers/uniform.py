"""The control: every example is as likely as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.samplers import Sampler

if TYPE_CHECKING:
    import numpy as np


class UniformSampler(Sampler):
    """A task's chance is its share of all training examples; counts are drawn."""

    name = "uniform"
    source = "the control of every sampler"
    when = "To tell what a sampler adds: the same draws without evidence."

    def counts(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        return self.drawn(step, size, np.array(self.arms.sizes, dtype=float))
