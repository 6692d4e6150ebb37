"""PCB-Merging (Du et al., arXiv:2410.02396): entries compete within and between task vectors; the best are weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import kernels
from genepool.kernels.selection import Selection
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    import torch


class Competition(Survey):
    """For every model, the magnitudes it is clamped to (two passes) and the scores that weigh 0 and 1 (two passes).

    Args:
        models: how many.
        numel: entries of the vector.
        clip: share of the entries that is clamped at either end.
        ratio: share of the entries whose score counts.
    """

    passes = 4

    def __init__(self, models: int, numel: int, clip: float, ratio: float) -> None:
        # The authors' places in ascending order; where a share is no whole number, both ends are cut unalike.
        low, high = int(numel * clip), int(numel * (1 - clip) - 1)
        kept = numel - int(numel * (1 - ratio))
        self._sizes = [Selection([numel - low, min(numel - high, numel)]) for _ in range(models)]
        self._scores = [Selection([kept, min(1, numel)], signed=True) for _ in range(models)]

    @property
    def sizes(self) -> tuple[list[float], list[float]]:
        """The smallest and the largest magnitude of every model after clamping."""
        return [s.values[0] for s in self._sizes], [s.values[1] for s in self._sizes]

    @property
    def scores(self) -> tuple[list[float], list[float]]:
        """Of every model, the score at the edge of its share and its largest."""
        return [s.values[0] for s in self._scores], [s.values[1] for s in self._scores]

    def _at(self, number: int) -> list[Selection]:
        return self._sizes if number < 2 else self._scores

    def begin(self, number: int) -> list[torch.Tensor]:
        return [selection.begin(number % 2) for selection in self._at(number)]

    def observe(self, number: int, group: TensorGroup, partial: list[torch.Tensor]) -> None:
        if number >= 2:
            buckets = [selection.buckets for selection in self._scores] if number == 3 else None
            kernels.count_scores(group.deltas, *self.sizes, partial, buckets)
            return
        for selection, delta, counts in zip(self._sizes, group.deltas, partial, strict=True):
            selection.observe(number, delta, counts)

    def fold(self, number: int, partial: list[torch.Tensor]) -> None:
        for selection, counts in zip(self._at(number), partial, strict=True):
            selection.fold(counts)

    def finish(self, number: int) -> None:
        for selection in self._at(number):
            selection.finish(number % 2)


@register
class PCB(Method):
    """Mean of the task vectors, each entry weighted by its score in a competition between the models."""

    name = "pcb"
    source = "PCB-Merging, Du et al. 2024, arXiv:2410.02396"
    when = (
        "Several skills that compete for the same weights, when the sizes of the changes matter as well as the signs."
    )
    formula = (
        "th0 + lambda * sum_i s_i t_i / sum_i s_i,  s_i = minmax(top_r(exp(n minmax(|t_i|)^2) tanh(t_i sum_j t_j))),  "
        "|t_i| clamped at both ends"
    )
    inputs = "deltas"
    base = "required"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "ratio", 0.1, "Share of each model's entries whose score counts.", low=0, high=1,
            source="the authors' code for language models; 0.05 for vision",
        ),
        Parameter("lambda", 1.2, "Factor of the merged task vector.", source="the authors' code"),
        Parameter(
            "clip", 0.01, "Share of each model's entries clamped at either end of its magnitudes.", low=0, high=0.49,
            source="the authors' code for language and vision; their short script has 1e-4",
        ),
        Parameter(
            "scope", "model", "Clamp, scale and rank over the whole vector (model) or within each tensor.", kind=str,
            choices=("model", "tensor"), source="section 3.2: the flattened task vector",
        ),
    )  # fmt: skip

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Competition(len(per_model), numel, shared["clip"], shared["ratio"])

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("ratio", "clip", "scope")

    def merge(self, group: TensorGroup, survey: Competition) -> torch.Tensor:
        merged = kernels.balance(group.deltas, *survey.sizes, *survey.scores)
        return merged.mul_(group.shared["lambda"]).add_(group.base)
