"""A parent with noise on some of its weights (GENOME)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.strategies.base import Birth
from genepool.seeding import torch_generator

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents


@register("mutate")
def mutate(founders: Founders, parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """N(0, `sigma`) added to each weight with probability `rate`."""
    import torch

    (parent,) = parents
    rate, sigma = birth.parameters["rate"], birth.parameters["sigma"]
    for name, info in founders.infos.items():
        generator = torch_generator(birth.seed, name)
        noise = torch.randn(info.shape, generator=generator) * sigma
        if rate < 1:
            noise *= torch.rand(info.shape, generator=generator) < rate
        yield name, parent[name].to(torch.float32) + noise
