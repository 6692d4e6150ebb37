"""Two parents, spherically interpolated one way before a point of the flat vector and the other way after it (M2N2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from genepool.evolution.breeding.operators import register
from genepool.evolution.strategies.base import Birth
from genepool.seeding import torch_generator
from genepool.weights.roles import by_depth

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders
    from genepool.evolution.breeding.operators import Parents

# Below this sine the vectors are as good as parallel and SLERP is a straight line.
_PARALLEL = 1e-6


@register("splice")
def splice(founders: Founders, parents: Parents, birth: Birth) -> Iterator[tuple[str, torch.Tensor]]:
    """SLERP(`weight`) in the first `split` share of the flat vector, SLERP(1 - `weight`) in the rest, then noise.

    The flat vector follows the depth of the model: embeddings, layers by their number, what comes after them, heads.
    The angle is that between the whole flat vectors, as published; `weight` is the second parent's share.
    """
    import torch

    first, second = parents
    weight, sigma = birth.parameters["weight"], birth.parameters.get("sigma", 0.0)
    angle = _angle(founders, parents)
    before, after = _shares(weight, angle), _shares(1 - weight, angle)
    left = math.floor(birth.parameters["split"] * sum(info.numel for info in founders.infos.values()))
    for name in by_depth(founders.infos):
        info = founders.infos[name]
        a, b = first[name].to(torch.float32).reshape(-1), second[name].to(torch.float32).reshape(-1)
        here = min(max(left, 0), info.numel)
        made = torch.empty_like(a)
        made[:here] = before[0] * a[:here] + before[1] * b[:here]
        made[here:] = after[0] * a[here:] + after[1] * b[here:]
        left -= info.numel
        if sigma:
            made += torch.randn(info.numel, generator=torch_generator(birth.seed, name)) * sigma
        yield name, made.reshape(info.shape)


def _angle(founders: Founders, parents: Parents) -> float:
    import torch

    dots = [0.0, 0.0, 0.0]
    for name in founders.infos:
        a, b = (parent[name].to(torch.float64).reshape(-1) for parent in parents)
        for i, (x, y) in enumerate(((a, b), (a, a), (b, b))):
            dots[i] += float(x @ y)
    length = math.sqrt(dots[1] * dots[2])
    return math.acos(min(1.0, max(-1.0, dots[0] / length))) if length else 0.0


def _shares(weight: float, angle: float) -> tuple[float, float]:
    sine = math.sin(angle)
    if sine <= _PARALLEL:
        return 1 - weight, weight
    return math.sin((1 - weight) * angle) / sine, math.sin(weight * angle) / sine
