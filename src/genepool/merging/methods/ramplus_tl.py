"""RAM+ (Yuan et al., arXiv:2601.13572): as RAM, with what one model alone changed amplified by how much it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.methods.ram import EPSILON
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Sums, Survey


def amplification(counts: Any, r: float, alpha: float) -> list[float]:
    """`1 + r * min(shared / alone, alpha)` of every model; 1 where a model changed nothing alone.

    Args:
        counts: entries changed alone and together with others, `(models, 2)`.
        r: how strongly the ratio counts.
        alpha: the largest ratio that counts.
    """
    return [1 + r * min(shared / alone, alpha) if alone else 1.0 for alone, shared in counts.tolist()]


@register
class RamPlus(Method):
    """As RAM, but an entry that only one model changed is multiplied by a factor of that model."""

    name = "ramplus_tl"
    source = "RAM+, Yuan et al. 2026, arXiv:2601.13572"
    when = "As RAM, when averaging the entries that models share weakens each of them noticeably."
    formula = "th0 + mean of active t_i; one alone times 1 + r min(rho_i, alpha),  rho_i = shared / alone entries of i"
    inputs = "deltas"
    base = "required"
    on_arrays = True
    parameters = (
        EPSILON,
        Parameter(
            "r", 0.1, "How strongly the ratio of shared entries amplifies.", low=0,
            source="mergekit; the authors' README has 0.2, their program 0.05",
        ),
        Parameter("alpha", 0.2, "The largest ratio that counts.", low=0, source="mergekit; 1 in the authors' code"),
        Parameter(
            "scope", "tensor", "Count entries within each tensor, or over the whole vector (model) as the paper does.",
            kind=str, choices=("tensor", "model"), source="tl: tensor-local",
        ),
    )  # fmt: skip

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("epsilon", "scope")

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Sums(lambda group: kernels.overlap_counts(group.deltas, group.shared["epsilon"]), in_order=False)

    def merge(self, group: TensorGroup, survey: Sums) -> Any:
        shared = group.shared
        factors = amplification(survey.array, shared["r"], shared["alpha"])
        return kernels.add_scaled(group.base, kernels.overlap_mean(group.deltas, shared["epsilon"], factors))
