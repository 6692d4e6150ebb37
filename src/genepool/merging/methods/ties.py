"""TIES-Merging (Yadav et al., arXiv:2306.01708): trim, elect signs, average what agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.parameters import Parameter
from genepool.merging.selection import MagnitudeSelection, keep_count, kth_largest_magnitude
from genepool.merging.sign_election import disjoint_sum, elected_signs

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
    "Sign of an entry whose votes cancel: the whole vector's majority, or always positive.",
    kind=str,
    choices=("majority", "positive"),
    source="the authors' resolve_zero_signs",
)


class TrimSurvey:
    """Thresholds of every model over the whole vector (two passes), then the majority sign (one pass)."""

    def __init__(self, method: Ties, shared: Mapping[str, Any], densities: Sequence[float], numel: int) -> None:
        self._method = method
        whole = shared["scope"] == "model"
        needs = [whole and 0 < density < 1 for density in densities]
        self._selections = [
            MagnitudeSelection(keep_count(density, numel)) if need else None
            for density, need in zip(densities, needs, strict=True)
        ]
        self._trim_passes = MagnitudeSelection.passes if any(needs) else 0
        self.passes = self._trim_passes + (shared["zero_sign"] == "majority")
        self._positive_minus_negative = 0

    @property
    def thresholds(self) -> list[float | None]:
        """The smallest kept magnitude of each model; None where nothing was selected over the whole vector."""
        return [selection.threshold if selection else None for selection in self._selections]

    @property
    def majority_sign(self) -> float:
        """The sign of the sum of all elected signs; +1 when they balance."""
        return 1.0 if self._positive_minus_negative >= 0 else -1.0

    def observe(self, number: int, group: TensorGroup) -> None:
        if number < self._trim_passes:
            for selection, delta in zip(self._selections, self._method.prepared(group), strict=True):
                if selection is not None:
                    selection.observe(number, delta)
        else:
            total = torch.stack(self._method.weighted_trimmed(group, self)).sum(0)
            self._positive_minus_negative += int(torch.sign(total).sum(dtype=torch.float64))

    def finish(self, number: int) -> None:
        if number < self._trim_passes:
            for selection in self._selections:
                if selection is not None:
                    selection.finish(number)


@register
class Ties(Method):
    """Keep the largest entries of each task vector, elect a sign per entry, average the entries that agree."""

    name = "ties"
    source = "TIES-Merging, Yadav et al. 2023, arXiv:2306.01708"
    when = "Several skills whose changes conflict in sign; needs no tuning at its defaults."
    formula = "th0 + lambda * mean over agreeing i of w_i trim_density(t_i)"
    kind = "deltas"
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
            "rescale", "none", "Give each tensor back the L1 norm that trimming took.", kind=str, choices=("none", "l1")
        ),
        SCOPE,
        ZERO_SIGN,
    )  # fmt: skip
    density = "density"

    def survey(
        self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int
    ) -> TrimSurvey | None:
        survey = TrimSurvey(self, shared, [values.get(self.density, 1.0) for values in per_model], numel)
        return survey if survey.passes else None

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return (self.density, "scope", "zero_sign") if shared["scope"] == "model" else ("scope", "zero_sign")

    def prepared(self, group: TensorGroup) -> Sequence[torch.Tensor]:
        """The task vectors before trimming; subclasses drop entries here."""
        return group.deltas

    def weighted_trimmed(self, group: TensorGroup, survey: TrimSurvey | None) -> list[torch.Tensor]:
        """Each model's trimmed task vector times its weight."""
        deltas, weights = self.prepared(group), group.column("weight")
        thresholds = survey.thresholds if survey else [None] * len(deltas)
        result = []
        for delta, weight, density, threshold in zip(
            deltas, weights, group.column(self.density), thresholds, strict=True
        ):
            if threshold is None and density < 1:
                threshold = kth_largest_magnitude(delta, keep_count(density, delta.numel()))
            # ">=" keeps entries that tie with the last one, as the authors' code does.
            kept = delta if threshold is None else torch.where(delta.abs() >= threshold, delta, 0.0)
            result.append(self.rescaled(kept, delta, group) * weight)
        return result

    def rescaled(self, kept: torch.Tensor, delta: torch.Tensor, group: TensorGroup) -> torch.Tensor:
        """`kept` with the L1 norm of `delta`, when the recipe asks for it."""
        if group.shared["rescale"] != "l1" or kept is delta:
            return kept
        before, after = float(delta.abs().sum()), float(kept.abs().sum())
        return kept * (before / after) if before >= 1e-7 and after >= 1e-7 else kept

    def merge(self, group: TensorGroup, survey: TrimSurvey | None) -> torch.Tensor:
        weighted = self.weighted_trimmed(group, survey)
        zero_sign = survey.majority_sign if survey and group.shared["zero_sign"] == "majority" else 1.0
        signs = elected_signs(weighted, zero_sign)
        merged = disjoint_sum(weighted, group.column("weight"), signs, group.shared["normalize"])
        return group.base + merged.mul_(group.shared["lambda"])
