"""TIES-Merging (Yadav et al., arXiv:2306.01708): trim, elect signs, average what agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.merging import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.parameters import Parameter
from genepool.merging.selection import keep_count
from genepool.merging.survey import Chain, Sums, Survey, Thresholds

if TYPE_CHECKING:
    import torch

SCOPE = Parameter(
    "scope",
    "model",
    "Trim over the whole vector (model) or within each tensor.",
    kind=str,
    choices=("model", "tensor"),
    source="section 3.1 trims the whole vector",
)
ZERO_SIGN = Parameter(
    "zero_sign",
    "majority",
    "Sign of an entry whose votes cancel: the majority's over the scope, or always positive.",
    kind=str,
    choices=("majority", "positive"),
    source="the authors' resolve_zero_signs",
)


class TrimSurvey(Chain):
    """Thresholds of every model (two passes), L1 norms if they are needed (one), the majority sign if it is (one)."""

    def __init__(
        self,
        method: Ties,
        shared: Mapping[str, Any],
        per_model: Sequence[Mapping[str, Any]],
        numel: int,
        norms: Callable[[TensorGroup], torch.Tensor] | None = None,
    ) -> None:
        densities = [values[method.density] for values in per_model]
        self._thresholds = Thresholds([keep_count(d, numel) if d < 1 else None for d in densities], method.prepared)
        self._norms = Sums(norms) if norms else None
        self._votes = Sums(lambda group: method.votes(group, self))
        stages: list[Survey | None] = [
            self._thresholds if any(density < 1 for density in densities) else None,
            self._norms,
            self._votes if shared["zero_sign"] == "majority" else None,
        ]
        super().__init__([stage for stage in stages if stage])

    @property
    def thresholds(self) -> list[float]:
        """The smallest kept magnitude of each model."""
        return self._thresholds.values

    @property
    def l1_norms(self) -> torch.Tensor | None:
        """L1 norms before and after, `(2, models)`, when they were asked for."""
        return self._norms.total if self._norms else None

    @property
    def majority_sign(self) -> float:
        """The sign of the sum of all elected signs; +1 when they balance or were not counted."""
        return 1.0 if float(self._votes.total) >= 0 else -1.0


@register
class Ties(Method):
    """Keep the largest entries of each task vector, elect a sign per entry, average the entries that agree."""

    name = "ties"
    source = "TIES-Merging, Yadav et al. 2023, arXiv:2306.01708"
    when = "Several skills whose changes conflict in sign; needs no tuning at its defaults."
    formula = "th0 + lambda * mean over agreeing i of w_i trim_density(t_i)"
    inputs = "deltas"
    base = "required"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("weight", 1.0, "Weight of this model in the vote and the mean.", per_model=True),
        Parameter(
            "density", 0.2, "Share of entries kept, the largest in magnitude.", per_model=True, low=0, high=1,
            source="section 4: top 20%",
        ),
        Parameter("lambda", 1.0, "Factor of the merged task vector.", source="section 4: 1 without validation data"),
        Parameter("normalize", True, "Average the agreeing entries rather than add them.", kind=bool),
        Parameter(
            "rescale", "none", "Give each tensor (or the whole vector) back the L1 norm that trimming took.",
            kind=str, choices=("none", "l1"),
        ),
        SCOPE,
        ZERO_SIGN,
    )  # fmt: skip
    density = "density"

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        survey: TrimSurvey
        norms = (lambda group: self._l1_norms(group, survey)) if shared["rescale"] == "l1" else None
        survey = TrimSurvey(self, shared, per_model, numel, norms)
        return survey if survey.passes else None

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("weight", self.density, "rescale", "scope", "zero_sign")

    def prepared(self, group: TensorGroup) -> torch.Tensor:
        """The task vectors before trimming, `(models, rows, columns)`; subclasses drop entries here."""
        return group.deltas

    def factors(self, group: TensorGroup, survey: TrimSurvey | None) -> list[float]:
        """What each trimmed task vector is multiplied by before its weight."""
        from genepool.merging.methods.dare_linear import norm_ratios

        norms = survey.l1_norms if survey else None
        return [1.0] * len(group.per_model) if norms is None else norm_ratios(norms)

    def votes(self, group: TensorGroup, survey: TrimSurvey) -> torch.Tensor:
        """The sum of the elected signs over a block."""
        import torch

        return torch.tensor(self._elected(group, survey)[1], dtype=torch.float64)

    def merge(self, group: TensorGroup, survey: TrimSurvey | None) -> torch.Tensor:
        merged, _ = self._elected(group, survey)
        return merged.mul_(group.shared["lambda"]).add_(group.base)

    def _elected(self, group: TensorGroup, survey: TrimSurvey | None) -> tuple[torch.Tensor, int]:
        vectors, weights = self.prepared(group), group.column("weight")
        majority = survey is not None and group.shared["zero_sign"] == "majority"
        return kernels.elect(
            vectors,
            weights,
            scales=self.factors(group, survey),
            normalize=group.shared["normalize"],
            zero_sign=survey.majority_sign if majority and survey else 1.0,
            # ">=" keeps entries that tie with the last one, as the authors' code does.
            thresholds=survey.thresholds if survey else None,
        )

    @staticmethod
    def _l1_norms(group: TensorGroup, survey: TrimSurvey) -> torch.Tensor:
        import torch

        sizes = group.deltas.abs_()
        before = sizes.sum((1, 2), dtype=torch.float64)
        for size, threshold in zip(sizes, survey.thresholds, strict=True):
            size.masked_fill_(size < threshold, 0.0)
        return torch.stack([before, sizes.sum((1, 2), dtype=torch.float64)])
