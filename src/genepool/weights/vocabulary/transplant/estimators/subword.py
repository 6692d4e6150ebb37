"""The mean of the tokens that the model splits the text of a new token into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch


class SubwordMean(RowEstimator):
    """The mean of the model's rows of the pieces; of a token without a text, or without known pieces, the mean row."""

    name = "subword"
    source = "mergekit-tokensurgeon 0.1.5, `subword` with its `mean`"
    when = "only a tokenizer is given, or its model is poorly trained"

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        import torch

        mean = missing.rows.mean(0)
        found = []
        for meaning in missing.meanings:
            pieces = list(missing.split(meaning.text)) if meaning.text else []
            found.append(missing.rows[pieces].mean(0) if pieces else mean)
        return torch.stack(found) if found else missing.rows[:0]
