"""One row for all new tokens: the mean of the model's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch


class MeanRow(RowEstimator):
    """The mean of all rows: a new token is as likely as others, and means nothing yet."""

    name = "mean"
    source = "Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html"
    when = "the model will be trained on the new tokens"

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        return missing.rows.mean(0).expand(len(missing.meanings), -1).clone()
