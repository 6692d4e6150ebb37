"""BOFT: products of sparse orthogonal matrices, laid out as a butterfly (arXiv:2311.06243)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.rotations import cayley, times_blocks
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRAINING, TRANSPOSED, declared, unused

if TYPE_CHECKING:
    import torch


class BOFT(Kind):
    """`s * (W R^T)`, R the product of one block-diagonal rotation for each factor, inputs permuted in between."""

    peft_type = "BOFT"
    title = "BOFT"
    source = "arXiv:2311.06243"
    prefix = "boft_"
    parts = ("boft_R", "boft_s")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "boft_block_size": unused("the shapes in the file tell it"),
            "boft_block_num": unused("the shapes in the file tell it"),
            "boft_n_butterfly_factor": unused("the shapes in the file tell it"),
            "boft_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("boft_R")
        factors, count, size = (found[0], found[1], found[2]) if len(found) == 4 else (1, 1, layer.in_features)
        layer.expect("boft_R", (factors, count, size, size))
        if count * size != layer.in_features:
            layer.expect("boft_R", (factors, layer.in_features // max(1, size), size, size))
        if factors > 1 and (size % 2 or count % 2 ** (factors - 1)):
            layer.expect("boft_R", (1, count, size, size))
        layer.expect("boft_s", (1, layer.out_features) if layer.kernel else (layer.out_features, 1))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        rotations = layer.read("boft_R")
        factors, count, size, _ = rotations.shape
        weight = layer.weight()
        turned = weight
        for number in range(factors):
            skewed = (rotations[number] - rotations[number].mT) / 2
            order = torch.arange(layer.in_features)
            if factors > 1:
                order = _butterfly(layer.in_features, count // 2**number, size // 2)
            # P D P^T acts on the inputs in the order of P: they are gathered, turned and put back.
            moved = times_blocks(turned[:, _inverse(order)], cayley(skewed).mT)
            turned = moved[:, order]
        return turned * layer.read("boft_s").reshape(-1, 1) - weight


def _butterfly(features: int, blocks: int, half: int) -> torch.Tensor:
    """The order of the inputs for one factor: in each of `blocks` groups, even runs of `half` inputs before odd."""
    import torch

    runs = torch.arange(features).reshape(blocks, -1, half)
    return torch.cat((runs[:, 0::2], runs[:, 1::2]), 1).reshape(-1)


def _inverse(order: torch.Tensor) -> torch.Tensor:
    return order.argsort()
