"""Rows at random, from the normal distribution of the model's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.seeding import torch_generator
from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch


class GaussianRows(RowEstimator):
    """Draws with the mean and the covariance of all rows; the seed and the tensor's name decide."""

    name = "gaussian"
    source = "Hewitt 2021 (as for `mean`); mergekit-tokensurgeon's `john_hewitt`"
    when = "the model will be trained on the new tokens, or as the baseline of a comparison"

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        import torch

        centred = (missing.rows - missing.rows.mean(0)).to(torch.float64)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        spread = vectors * values.clamp_min(0).sqrt()
        generator = torch_generator(missing.seed, "transplant", missing.name)
        drawn = torch.randn((len(missing.meanings), len(values)), generator=generator, dtype=torch.float64)
        found: torch.Tensor = missing.rows.mean(0) + (drawn @ spread.T).to(torch.float32)
        return found
