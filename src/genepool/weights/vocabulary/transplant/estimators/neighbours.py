"""The mean of the common tokens that are nearest to a new token in the donor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch

# Rows whose distances are in memory at once.
_TOKENS_AT_ONCE = 512


class NeighbouringRows(RowEstimator):
    """Of the k nearest in Euclidean distance, weighted by one over the distance."""

    name = "neighbours"
    source = "mergekit-tokensurgeon 0.1.5, `common_interpolation` with its defaults"
    when = "few tokens are common, and sums of them would overfit"
    needs_donor = True

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        import torch

        assert missing.donor_rows is not None
        assert missing.donor_shared_rows is not None
        parts = [missing.rows[:0]]
        for start in range(0, len(missing.donor_rows), _TOKENS_AT_ONCE):
            targets = missing.donor_rows[start : start + _TOKENS_AT_ONCE]
            distances = torch.cdist(targets, missing.donor_shared_rows)
            near, chosen = distances.topk(min(missing.k, distances.shape[1]), largest=False)
            weights = 1 / near.clamp_min(1e-6)
            weights /= weights.sum(1, keepdim=True)
            parts.append(torch.einsum("bk,bkd->bd", weights, missing.shared_rows[chosen]))
        return torch.cat(parts)
