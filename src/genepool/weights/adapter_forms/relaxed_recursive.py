"""A relaxed recursive transformer: one block of layers, looped, with factors of its own for each loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch


class RelaxedRecursiveOptions(FormOptions):
    """Options of relaxed recursive transformers."""

    loops: int = Field(default=2, ge=2, le=1000, description="How often the block of layers is run.")
    rank: int = Field(default=16, ge=1, le=4096, description="Rank of each loop's factors.")
    begin: Literal["average", "first"] = Field(
        default="average",
        description="The block begins as the average over the loops of the base's layers, or as its first layers.",
    )


class RelaxedRecursive(LinearForm):
    """Layer l computes with W of place l mod K of the block, K = layers / loops, plus the factors of its own loop.

    The factors begin as the truncated SVD of what the base's weight differs from the block's. It unrolls to plain
    weights: W'_l = W_(l mod K) + B_l A_l.
    """

    name = "relaxed_recursive"
    source = "Bae et al., Relaxed Recursive Transformers (arXiv:2410.20672); derived from the text"
    when = "A model with fewer distinct weights, trained back from the base that it was cut from."
    traps = (
        "The start is not the base unless the rank is full: before the first step something is already lost. Norms "
        "and biases stay those of the base's layers. Unrolled, it is as large as the base again."
    )
    Options = RelaxedRecursiveOptions
    options: RelaxedRecursiveOptions
    boost = 1.0

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        depth = sites.depth[site.stack]
        if depth % self.options.loops:
            raise InputError(
                f"{site.stack} has {depth} layers, which {self.options.loops} loops do not divide",
                where=sites.where,
                fix="Set `loops` to a divisor: --set form.loops=N",
            )
        rank = min(self.options.rank, site.inputs, site.outputs)
        return {"weight": (site.outputs, site.inputs), "A": (rank, site.inputs), "B": (site.outputs, rank)}

    def _block(self, site: LinearSite, sites: ModelSites) -> int:
        return site.layer % (sites.depth[site.stack] // self.options.loops)

    def key(self, site: LinearSite, part: str, sites: ModelSites) -> str:
        if part == "weight":
            return f"block.{site.stack}.{self._block(site, sites)}.{site.place}.weight"
        return f"{site.module}.{part}"

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        sites = beginning.sites
        alike = [
            one
            for one in self.chosen(sites)
            if (one.stack, one.place) == (site.stack, site.place)
            and self._block(one, sites) == self._block(site, sites)
        ]
        read = alike if self.options.begin == "average" else alike[:1]
        shared = torch.stack([beginning.read(one)[0] for one in read]).mean(0)
        left, values, right = torch.linalg.svd(beginning.read(site)[0] - shared, full_matrices=False)
        rank = self.parts(site, sites)["A"][0]
        root = values[:rank].sqrt()
        return {"weight": shared, "A": root[:, None] * right[:rank], "B": left[:, :rank] * root}

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        return in_place(plain, x, parts["weight"], site) + x @ parts["A"].T @ parts["B"].T

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parts["weight"] + parts["B"] @ parts["A"] - weight, None


def in_place(
    plain: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, weight: torch.Tensor, site: LinearSite
) -> torch.Tensor:
    """What a linear layer computes with another weight (outputs, inputs) in place of its own, and with its own bias.

    Args:
        plain: what the layer computes.
        x: what it reads, (..., inputs).
        weight: the other weight.
        site: the layer.
    """
    from torch.nn.functional import linear

    bias = plain(x.new_zeros(1, site.inputs))[0] if site.bias else None
    return linear(x, weight, bias)
