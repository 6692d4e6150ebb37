"""NuSLERP (mergekit's name): spherical interpolation with a weight for each model, of task vectors with a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.methods.slerp import arc_factors
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.survey import Sums, Survey
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

if TYPE_CHECKING:
    import torch

# So close to one line that the arc is the chord to the last digit of float32.
_PARALLEL = 1 - 1e-9


@register
class NuSlerp(WeightedSum):
    """The point that divides the arc between two models, or their task vectors, in the ratio of their weights.

    The angle is taken over each tensor, each row, or each column. A vector is one row, and so is a scalar.
    """

    name = "nuslerp"
    source = "NuSLERP in mergekit, Goddard et al. 2024, arXiv:2403.13257; Shoemake 1985"
    when = "Two models with one weight each; with a base, two skills whose task vectors should keep their length."
    formula = "th0 + sin((1-t)a)/sin(a) t_1 + sin(ta)/sin(a) t_2,  t = w_2 / (w_1 + w_2);  without base x_i for t_i"
    inputs = "deltas"
    base = "optional"
    models = (2, 2)
    parameters = (
        Parameter("weight", 1.0, "Share of this model.", per_model=True),
        Parameter("nuslerp_flatten", True, "One angle for the whole tensor.", kind=bool),
        Parameter(
            "nuslerp_row_wise",
            False,
            "Without nuslerp_flatten: an angle along the first axis (for each column), not along the last.",
            kind=bool,
        ),
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        # Blocks hold whole rows, so an angle for each row needs no look ahead.
        if shared["nuslerp_flatten"]:
            return Gram(self)
        return Sums(_column_products) if shared["nuslerp_row_wise"] else None

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors | None:
        if not isinstance(survey, Gram):
            return None
        return SumFactors(arc_factors(survey.total, _share(per_model), _PARALLEL).tolist())

    def merge(self, group: TensorGroup, survey: Gram | Sums | None) -> torch.Tensor:
        import torch

        if isinstance(survey, Gram):
            return super().merge(group, survey)
        vectors = group.vectors
        # (rows, 2, 2) or (columns, 2, 2); a vector is one row, whatever was asked.
        products = survey.total if survey else _row_products(vectors)
        factors = torch.as_tensor(arc_factors(products.cpu().numpy(), _share(group.per_model), _PARALLEL)).to(vectors)
        shape = (-1, 1) if survey is None else factors.shape[:-1]
        merged = vectors[0].mul_(factors[..., 0].reshape(shape))
        merged.addcmul_(vectors[1], factors[..., 1].reshape(shape))
        return merged.add_(group.base) if group.has_base else merged


def _share(per_model: Sequence[Mapping[str, Any]]) -> float:
    """The second model's share of both weights; half where they cancel."""
    first, second = (own["weight"] for own in per_model)
    return float(second / (first + second)) if abs(first + second) >= 1e-6 else 0.5


def _column_products(group: TensorGroup) -> torch.Tensor:
    """Dot products of a block column by column, `(columns, 2, 2)`; of a vector as a whole, `(1, 2, 2)`."""
    import torch

    if len(group.shape) < 2:
        return _row_products(group.vectors)
    first, second = group.vectors
    mixed = (first * second).sum(0)
    return torch.stack([first.square().sum(0), mixed, mixed, second.square().sum(0)], -1).reshape(-1, 2, 2)


def _row_products(vectors: torch.Tensor) -> torch.Tensor:
    """Dot products row by row, `(rows, 2, 2)` float64."""
    by_row = vectors.transpose(0, 1)
    return (by_row @ by_row.transpose(1, 2)).double()
