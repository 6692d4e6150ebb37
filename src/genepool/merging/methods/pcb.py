"""PCB-Merging (Du et al., arXiv:2410.02396): entries compete within and between task vectors; the best are weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import kernels
from genepool.kernels.competition import count_stored_scores, merge_stored
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Chain, Magnitudes, Survey

if TYPE_CHECKING:
    import numpy as np


class CompetitionScores(Magnitudes):
    """Of every model, the score at the edge of its share and the largest.

    Args:
        models: how many.
        sizes: the magnitudes that they are clamped to, finished when this begins.
        kept: how many scores count.
        numel: entries of the vector.
    """

    def __init__(self, models: int, sizes: Magnitudes, kept: int, numel: int) -> None:
        self._sizes = sizes
        super().__init__([[kept, min(1, numel)]] * models, self._scored, numel, signed=True)

    @property
    def clamped(self) -> tuple[list[float], list[float]]:
        """The smallest and the largest magnitude of every model after clamping."""
        return [found[0] for found in self._sizes.found], [found[1] for found in self._sizes.found]

    def _scored(self, group: TensorGroup) -> Any:
        return kernels.scores(group.deltas, *self.clamped)

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        if number >= self.counting or group.stored is None:
            return False
        assert self._brackets is not None
        brackets = [bracket for bracket in self._brackets if bracket is not None]
        if len(brackets) < len(self._brackets):
            return False
        count_stored_scores(group.stored, *self.clamped, brackets, partial)
        return True

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        if number < self.counting:
            super().observe(number, group, partial)
            return
        buckets = [selection.buckets for selection in self.selections] if number > self.counting else None
        kernels.count_scores(group.deltas, *self.clamped, partial, buckets)


class Competition(Chain):
    """For every model, the magnitudes it is clamped to and the scores that weigh 0 and 1: a pass each, with samples.

    Args:
        models: how many.
        numel: entries of the vector.
        clip: share of the entries that is clamped at either end.
        ratio: share of the entries whose score counts.
    """

    def __init__(self, models: int, numel: int, clip: float, ratio: float) -> None:
        # The authors' places in ascending order; where a share is no whole number, both ends are cut unalike.
        low, high = int(numel * clip), int(numel * (1 - clip) - 1)
        kept = numel - int(numel * (1 - ratio))
        self._sizes = Magnitudes([[numel - low, min(numel - high, numel)]] * models, numel=numel)
        self._scores = CompetitionScores(models, self._sizes, kept, numel)
        super().__init__([self._sizes, self._scores])

    @property
    def sizes(self) -> tuple[list[float], list[float]]:
        """The smallest and the largest magnitude of every model after clamping."""
        return self._scores.clamped

    @property
    def scores(self) -> tuple[list[float], list[float]]:
        """Of every model, the score at the edge of its share and its largest."""
        return [found[0] for found in self._scores.found], [found[1] for found in self._scores.found]


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
    on_arrays = True
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

    def merge_stored(self, group: TensorGroup, survey: Competition, out: np.ndarray[Any, Any]) -> bool:
        if group.stored is None:
            return False
        merge_stored(group.stored, *survey.sizes, *survey.scores, group.shared["lambda"], out)
        return True

    def merge(self, group: TensorGroup, survey: Competition) -> Any:
        merged = kernels.balance(group.deltas, *survey.sizes, *survey.scores)
        return kernels.add_scaled(group.base, merged, group.shared["lambda"])
