"""A weighted sum of parents, moved along the singular directions in which an expert left the base (CycleQD)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.breeding.operators.mix import weighted
from genepool.evolution.strategies.base import Birth
from genepool.seeding import torch_generator

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents


@register("stretch")
def stretch(founders: Founders, parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """`sum weights[i] * parents[i] + U diag(r s) V^T` for every matrix.

    U diag(s) V^T is the change of the founder `expert`, r uniform on [0, `rate`) for each direction. Vectors (norms,
    biases) stay as they are mixed.
    """
    import torch

    for name, info in founders.infos.items():
        made = weighted(name, parents, birth.parameters["weights"])
        if len(info.shape) >= 2:
            left, values, right = founders.spectrum(birth.parameters["expert"], name)
            draws = torch.rand(min(info.matrix), generator=torch_generator(birth.seed, name))[: len(values)]
            made += ((left * (values * draws * birth.parameters["rate"])) @ right).reshape(info.shape)
        yield name, made
