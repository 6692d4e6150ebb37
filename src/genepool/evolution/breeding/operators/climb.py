"""A parent moved along many directions of noise at once: the step of an evolution strategy over weights."""

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


@register("climb")
def climb(founders: Founders, parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """`parent + sum steps[i] * noise(seeds[i])`, the noise being what `mutate` draws from that seed at rate 1."""
    import torch

    (parent,) = parents
    steps, seeds = birth.parameters["steps"], birth.parameters["seeds"]
    for name, info in founders.infos.items():
        total = parent[name].to(torch.float32, copy=True)
        for step, seed in zip(steps, seeds, strict=True):
            total.add_(torch.randn(info.shape, generator=torch_generator(seed, name)), alpha=step)
        yield name, total
