"""RegMean (Jin et al., arXiv:2212.09849): the layer that answers every model's inputs most as that model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.group import TensorGroup
from genepool.merging.method import Grain, Method
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.statistic_mean import MEAN_WEIGHT, check_total, weighted_mean

if TYPE_CHECKING:
    import torch

# With off-diagonals of at most this much, scaling by the diagonal leaves eigenvalues of at least a thousandth.
_SURELY_REGULAR = 0.999
# Of the largest eigenvalue: below it are directions that no input has, as far as Gram matrices in float32 can tell.
_NULL = 1e-6


@register
class RegMean(Method):
    """Matrices of linear layers by least squares; every other tensor is the weighted mean.

    With `W = mean + X` the equations are `X sum_i w_i G_i = sum_i w_i (W_i - mean) G_i`. They are solved in float64 for
    X alone, so the mean is left in directions that no model's inputs have.
    """

    name = "regmean"
    source = "Dataless Knowledge Fusion (RegMean), Jin et al. 2023, arXiv:2212.09849"
    when = "Fine-tunes of one base, and a few inputs of each one's task, without labels and gradients."
    formula = "W^T = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i^T,  G_i = X_i^T X_i / N with off-diagonals times off_diagonal"
    inputs = "statistics"
    statistic = "gram"
    base = "optional"
    parameters = (
        MEAN_WEIGHT,
        Parameter(
            "off_diagonal", 0.9, "Factor of the Gram matrices' entries beside the diagonal.", low=0, high=1,
            source="section 4.2; RegMean++ has 0.95",
        ),
    )  # fmt: skip

    def check(self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]]) -> None:
        check_total(per_model, site.name)

    def grain_of(self, site: Site, shape: tuple[int, ...], shared: Mapping[str, Any]) -> Grain:
        # Embeddings have no inputs to speak of; what else has two axes may be a linear layer.
        return "matrix" if len(shape) == 2 and site.part not in ("embedding", "norm") and min(shape) > 0 else "entry"

    def held_entries(self, grain: Grain, rows: int, columns: int, models: int) -> int:
        # Beside the models: three matrices in float64, and four Gram matrices of the longer side.
        more = 6 * rows * columns + 8 * max(rows, columns) ** 2 if grain == "matrix" else 0
        return super().held_entries(grain, rows, columns, models) + more

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        weights, vectors = group.column("weight"), group.vectors
        merged = weighted_mean(vectors, weights)
        grams = [group.statistic(i) for i in range(len(weights))]
        known = [one for one in grams if one is not None]
        if len(known) == len(grams):
            transposed = known[0].transposed
            offsets = vectors.sub_(merged).double()
            found = solved(
                offsets.mT if transposed else offsets, [one.values for one in known], weights,
                group.shared["off_diagonal"], group.name,
            )  # fmt: skip
            merged += (found.mT if transposed else found).to(merged)
        return merged.add_(group.base) if group.has_base else merged


def solved(
    offsets: torch.Tensor, grams: Sequence[torch.Tensor], weights: Sequence[float], off_diagonal: float, where: str
) -> torch.Tensor:
    """X of least norm with `X sum_i w_i G_i = sum_i w_i D_i G_i`.

    Args:
        offsets: the D_i, `(models, outputs, inputs)` float64.
        grams: the G_i, `(inputs, inputs)` float64.
        weights: the w_i.
        off_diagonal: factor of the entries of G beside the diagonal.
        where: the tensor, for errors.

    Raises:
        InputError: a matrix is no Gram matrix.
    """
    import torch

    total, pull = torch.zeros_like(grams[0]), torch.zeros_like(offsets[0])
    for offset, gram, weight in zip(offsets, grams, weights, strict=True):
        shrunk = gram * (weight * off_diagonal)
        shrunk.diagonal().copy_(gram.diagonal() * weight)
        total += shrunk
        pull += offset @ shrunk
    if off_diagonal > _SURELY_REGULAR:
        values, vectors = torch.linalg.eigh(total)
        inverse = values.reciprocal().where(values > _NULL * values[-1], 0.0)
        solved: torch.Tensor = (pull @ vectors * inverse) @ vectors.mT
        return solved
    scale = total.diagonal().sqrt()
    # An input that is always zero pulls nowhere: its equation is X = 0.
    dead = scale == 0
    scale = scale.where(~dead, 1.0)
    total /= scale[:, None] * scale
    total.diagonal()[dead] = 1.0
    factor, failed = torch.linalg.cholesky_ex(total)
    if int(failed):
        raise InputError("its statistics are no Gram matrix", where=where, fix="Compute them again")
    return torch.cholesky_solve((pull / scale).mT, factor).mT / scale
