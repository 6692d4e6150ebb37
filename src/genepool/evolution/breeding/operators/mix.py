"""A weighted sum of parents: averages, crossovers, and the steps of a particle swarm, which is linear in its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.strategies.base import Birth

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents


@register("mix")
def mix(founders: Founders, parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """`sum weights[i] * parents[i]`. Weights that sum to 1 keep the base out of it.

    Of adapters, factor by factor, as GENOME's authors do: the rank stays, and the product is not the sum of products.
    """
    for name in founders.infos:
        yield name, weighted(name, parents, birth.parameters["weights"])


def weighted(name: str, parents: Parents, weights: list[float]) -> torch.Tensor:
    """One tensor of the weighted sum, float32."""
    import torch

    total = parents[0][name].to(torch.float32) * weights[0]
    for parent, weight in zip(parents[1:], weights[1:], strict=True):
        total.add_(parent[name].to(torch.float32), alpha=weight)
    return total
