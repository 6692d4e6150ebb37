"""Zeros for new tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch


class ZeroRows(RowEstimator):
    """A row of zeros: in a head, a token with the logit 0."""

    name = "zero"
    source = "mergekit-tokensurgeon 0.1.5, `zero`"
    when = "new tokens must add nothing until they are trained"

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        return missing.rows.new_zeros((len(missing.meanings), missing.rows.shape[1]))
