"""A model from nothing: normal noise of one scale, where populations begin from scratch (M2N2)."""

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


@register("random")
def random(founders: Founders, _parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight from N(0, `sigma`)."""
    import torch

    for name, info in founders.infos.items():
        yield name, torch.randn(info.shape, generator=torch_generator(birth.seed, name)) * birth.parameters["sigma"]
