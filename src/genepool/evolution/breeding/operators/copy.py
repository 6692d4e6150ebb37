"""A founder as it is: how specialists enter a population and are judged like everyone else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.strategies.base import Birth

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents


@register("copy")
def copy(founders: Founders, parents: Parents, _birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """The one parent."""
    (parent,) = parents
    for name in founders.infos:
        yield name, parent[name]
