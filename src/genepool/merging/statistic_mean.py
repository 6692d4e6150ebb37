"""What merge methods share that average models by statistics: their weights, and the mean of what nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.parameters import Parameter

if TYPE_CHECKING:
    import torch

MEAN_WEIGHT = Parameter(
    "weight", 1.0, "Weight of this model in the mean, beside its statistics.", per_model=True, low=0
)


def check_total(per_model: Sequence[Mapping[str, Any]], tensor: str) -> None:
    """Refuses weights that are all zero.

    Raises:
        InputError: they are.
    """
    if not any(values["weight"] > 0 for values in per_model):
        raise InputError("every model has the weight 0", where=tensor, fix="Give one of them a larger `weight`")


def weighted_mean(vectors: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i v_i / sum_i w_i` of `(models, rows, columns)`."""
    import torch

    return torch.einsum("m,mrc->rc", torch.tensor(weights).to(vectors) / sum(weights), vectors)
