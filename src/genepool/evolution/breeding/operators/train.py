"""A model as it is, to be trained further: what changes is what it then learns, with settings of its own birth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.strategies.base import Birth

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents


@register("train")
def train(founders: Founders, parents: Parents, _birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """The one parent; the learner then reads `learn` among the birth's parameters."""
    (parent,) = parents
    for name in founders.infos:
        yield name, parent[name]
