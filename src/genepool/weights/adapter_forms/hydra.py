"""Hydra: a parallel and a sequential branch beside the MLP's second matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch


class HydraOptions(FormOptions):
    """Options of Hydra."""

    rank: int = Field(default=2, ge=1, le=4096, description="Rank of each branch (authors' code: 2).")


class Hydra(LinearForm):
    """y = W x + b + P x + S (W x + b), with P and S of low rank.

    Both branches are down and up: down is drawn from N(0, 0.02^2), up and every bias begin at 0. Folded:
    W' = (I + S) W + P, and b' = (I + S) b with the biases of both branches, so that W' keeps W's shape.
    """

    name = "hydra"
    source = "Kim et al., Hydra: Multi-head Low-rank Adaptation (arXiv:2309.06922)"
    when = "Few trained numbers that both reuse what a layer computes and add something new."
    traps = (
        "It stands on the MLP's second matrix alone. The branches have biases only where the layer has one: a bias "
        "could not be folded into a layer without."
    )
    Options = HydraOptions
    options: HydraOptions

    def chosen(self, sites: ModelSites) -> tuple[LinearSite, ...]:
        return tuple(mlp.last for mlp in sites.mlps)

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        rank = self.options.rank
        found: Shapes = {
            "parallel_down": (rank, site.inputs),
            "parallel_up": (site.outputs, rank),
            "sequential_down": (rank, site.outputs),
            "sequential_up": (site.outputs, rank),
        }
        if site.bias:
            for branch in ("parallel", "sequential"):
                found |= {f"{branch}_down_bias": (rank,), f"{branch}_up_bias": (site.outputs,)}
        return found

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        shapes = self.parts(site, beginning.sites)
        return {
            part: beginning.normal(f"{site.module}.{part}", shape, 0.02)
            if part.endswith("_down")
            else torch.zeros(shape)
            for part, shape in shapes.items()
        }

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        y = plain(x)
        return y + _branch(parts, "parallel", x) + _branch(parts, "sequential", y)

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        sequential = parts["sequential_up"] @ parts["sequential_down"]
        added = parts["parallel_up"] @ parts["parallel_down"] + sequential @ weight
        if bias is None:
            return added, None
        shift = sequential @ bias
        for branch in ("parallel", "sequential"):
            shift = shift + parts[f"{branch}_up"] @ parts[f"{branch}_down_bias"] + parts[f"{branch}_up_bias"]
        return added, shift

    def changes_bias(self, site: LinearSite) -> bool:
        return site.bias


def _branch(parts: Parts, branch: str, x: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import linear

    inner = linear(x, parts[f"{branch}_down"], parts.get(f"{branch}_down_bias"))
    return linear(inner, parts[f"{branch}_up"], parts.get(f"{branch}_up_bias"))
