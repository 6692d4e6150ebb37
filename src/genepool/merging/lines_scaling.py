"""LiNeS (Wang et al., arXiv:2410.17146): a merge's change to the base, scaled up linearly from shallow layers to deep.

A modifier of any method that has a base. What a recipe says of it is `Lines`; the engine asks `LinesScale` for each
tensor's factor and, when alpha is not given, shows it every merged block once before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from genepool.merging.group import TensorGroup
from genepool.schema import Strict

if TYPE_CHECKING:
    import torch


class Lines(Strict):
    """LiNeS: after the merge, the change of layer l of L (from 0) is multiplied by `alpha + beta l / (L - 1)`."""

    alpha: float | None = Field(
        None,
        ge=0,
        description="Factor at the first layer and of tensors outside the layers. When absent, "
        "`||sum_i t_i||_1 / ||merged - th0||_1 / n` over the whole vector, the paper's choice for n merged models.",
    )
    beta: float | None = Field(
        None,
        ge=0,
        description="What is added up to the last layer. When absent, `1 - alpha`, the paper's choice for one model: "
        "the last layer is left as it is. Beside an absent alpha it must be given; the paper tunes it from 0.1 to 1.",
    )

    @model_validator(mode="after")
    def _enough(self) -> Lines:
        if self.beta is None and (self.alpha is None or self.alpha > 1):
            raise ValueError("`lines` needs `beta` (try 0.1 to 1), or an `alpha` of at most 1")
        return self


class LinesScale:
    """The factors of one merge.

    Args:
        lines: what the recipe says.
        depth: number of layers of the output's main stack; None when it has none.
    """

    def __init__(self, lines: Lines, depth: int | None) -> None:
        self._depth = depth
        self._alpha = lines.alpha
        self._beta = lines.beta

    @property
    def needs_norms(self) -> bool:
        """Whether alpha has to be measured first."""
        return self._alpha is None

    def set_norms(self, summed: float, merged: float, models: int) -> None:
        """Sets alpha from the L1 norms of the summed task vectors and of the merged one; 1 when nothing was merged."""
        self._alpha = summed / merged / models if merged > 0 else 1.0

    def factor(self, layer: int | None) -> float:
        """What the change of a tensor in this layer is multiplied by; the only layer of one is the last."""
        assert self._alpha is not None, "alpha has not been measured"
        if layer is None or self._depth is None:
            return self._alpha
        beta = 1 - self._alpha if self._beta is None else self._beta
        return self._alpha + beta * (layer / (self._depth - 1) if self._depth > 1 else 1.0)

    def apply(self, merged: torch.Tensor, base: torch.Tensor, layer: int | None) -> torch.Tensor:
        """`base + factor * (merged - base)`, a tensor of its own."""
        return base.lerp(merged, self.factor(layer))


def summed_norm(group: TensorGroup) -> float:
    """L1 norm of the sum of all task vectors in a block."""
    import torch

    return float(group.deltas.sum(0).abs_().sum(dtype=torch.float64))


def changed_norm(merged: torch.Tensor, base: torch.Tensor) -> float:
    """L1 norm of what a merge changed in a block."""
    import torch

    return float((merged - base).abs_().sum(dtype=torch.float64))
