"""Arrow's router: the direction that each adapter stretches most, and how far a token points along it.

Uses `adapter_mixture` and the kernels' singular vectors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from genepool.composition.mixing.layer_factors import LayerFactors
from genepool.composition.routing.adapter_mixture import TokenRouter
from genepool.kernels.spectral import singular_triplets


def prototypes(layer: LayerFactors) -> torch.Tensor:
    """The first right singular vector of every skill's `B A` in one layer, (skills, inputs), float32.

    The product is never formed: with `A^T = Q R`, `B A = (B R^T) Q^T`. Zero where a skill changes nothing. The sign,
    which no singular vector has, is such that its largest entry is above 0.
    """
    found = torch.zeros(layer.skills, layer.inputs)
    for skill in range(layer.skills):
        pair = layer.pair(skill)
        if pair is None:
            continue
        down, up = (one.double().cpu() for one in pair)
        basis, upper = torch.linalg.qr(down.mT)
        triplets = singular_triplets((up.mT @ upper.mT).float(), 1)
        if len(triplets.values):
            vector = basis @ triplets.right[0].double()
            found[skill] = (vector / vector.norm() * vector[vector.abs().argmax()].sign()).float()
    return found


class ArrowRouter(TokenRouter):
    """Softmax over the largest absolute products of a token with the prototypes.

    Args:
        prototypes: of each layer, (skills, inputs), by the name of its matrix.
        absent: of each layer, whether a skill leaves it alone, (skills,).
        top: how many skills answer a token, at most.
        temperature: divides the products.
    """

    def __init__(
        self, prototypes: Mapping[str, torch.Tensor], absent: Mapping[str, torch.Tensor], top: int, temperature: float
    ) -> None:
        self._prototypes, self._absent = dict(prototypes), dict(absent)
        self._top, self._temperature = top, temperature

    def weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        """See `TokenRouter.weights`: 0 for skills that do not answer."""
        vectors = self._prototypes[name] = self._prototypes[name].to(inputs.device)
        absent = self._absent[name] = self._absent[name].to(inputs.device)
        # In float32 whatever the network computes in: products of bfloat16 would be ties.
        scores = (inputs.float() @ vectors.T).abs().masked_fill(absent, float("-inf"))
        best = scores.topk(min(self._top, int((~absent).sum())), -1)
        chosen = torch.full_like(scores, float("-inf")).scatter(-1, best.indices, best.values)
        return (chosen / self._temperature).softmax(-1)
