"""Fisher-weighted averaging (Matena & Raffel, arXiv:2111.09832): an entry counts as much as its model depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, Scope
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.statistic_mean import MEAN_WEIGHT, check_total, weighted_mean
from genepool.merging.survey import Sums, Survey

if TYPE_CHECKING:
    import torch


@register
class Fisher(Method):
    """The mean of the models, entry by entry, weighted by the diagonal of each one's Fisher information.

    With a base the task vectors are averaged, which is the same in exact arithmetic and rounds less.
    """

    name = "fisher"
    source = "Merging Models with Fisher-Weighted Averaging, Matena & Raffel 2022, arXiv:2111.09832"
    when = "Fine-tunes of one base, and a few inputs of each one's task."
    formula = "sum_i w_i F_i th_i / sum_i w_i F_i"
    inputs = "statistics"
    statistic = "fisher"
    base = "optional"
    parameters = (
        MEAN_WEIGHT,
        Parameter(
            "normalize", True, "Divide each model's Fisher information by its L2 norm over the whole model, so that "
            "no model counts more because its gradients are larger.", kind=bool, source="the authors' code",
        ),
        Parameter(
            "floor", 1e-6, "Smallest Fisher information of an entry, in every model: where no model knows anything, "
            "the plain weighted mean is left.", low=1e-30, source="the authors' code, for the first model alone",
        ),
    )  # fmt: skip

    def scope(self, shared: Mapping[str, Any]) -> Scope:
        return "model" if shared["normalize"] else "tensor"

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("normalize",)

    def check(self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]]) -> None:
        check_total(per_model, site.name)

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        return Sums(_squares) if shared["normalize"] else None

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        import torch

        weights = group.column("weight")
        found = [group.statistic(i) for i in range(len(weights))]
        vectors = group.vectors
        known = [one.values for one in found if one is not None]
        if len(known) < len(found):
            merged = weighted_mean(vectors, weights)
        else:
            fisher = torch.stack(known)
            if survey is not None:
                # A model that nothing changes has a norm of zero, and no entry to divide.
                norms = survey.total.sqrt().where(survey.total > 0, 1.0).to(fisher)
                fisher /= norms[:, None, None]
            fisher.clamp_min_(group.shared["floor"]).mul_(torch.tensor(weights).to(fisher)[:, None, None])
            merged = vectors.mul_(fisher).sum(0).div_(fisher.sum(0))
        return merged.add_(group.base) if group.has_base else merged


def _squares(group: TensorGroup) -> torch.Tensor:
    """The squared L2 norm of each model's Fisher information in a block."""
    import torch

    found = [group.statistic(i) for i in range(len(group.per_model))]
    return torch.stack([torch.zeros(()) if one is None else one.values.double().square().sum().cpu() for one in found])
