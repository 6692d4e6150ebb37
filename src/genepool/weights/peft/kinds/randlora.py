"""RandLoRA: sums of random products of low rank, scaled by trained diagonal matrices (arXiv:2502.00987)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRAINING, TRANSPOSED, declared, read, unused

if TYPE_CHECKING:
    import torch


class RandLoRA(Kind):
    """`alpha / r * sum_n B_n diag(lambda_n) A diag(gamma_n)`, on the smaller side of the weight."""

    peft_type = "RANDLORA"
    title = "RandLoRA"
    source = "arXiv:2502.00987"
    prefix = "randlora_"
    # PEFT's layers repeat the random matrices beside their own numbers.
    parts = ("randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B")
    shared = ("randlora_A", "randlora_B")
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "randlora_alpha": read("scale, divided by the rank"),
            "projection_prng_key": read("the seed of the random matrices, where they are not in the file"),
            "save_projection": unused("the random matrices are in the file, or they are not"),
            "sparse": read("how the random matrices are drawn, where they are not in the file"),
            "very_sparse": read("the same"),
            "randlora_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("randlora_lambda")
        rank = found[0]
        small, large = self._sides(layer)
        bases = math.ceil(small / max(1, rank))
        layer.expect("randlora_lambda", (rank, bases))
        layer.expect("randlora_gamma", (bases, small))
        if layer.has_shared("randlora_A"):
            a, b = layer.shared_size("randlora_A"), layer.shared_size("randlora_B")
            layer.expect("randlora_A", (rank, 1, max(small, a[-1])), a)
            layer.expect("randlora_B", (max(large, b[0]), max(bases, b[1] if len(b) == 3 else 0), rank), b)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        a, b = self._projections(layer)
        weights, gamma = layer.read("randlora_lambda"), layer.read("randlora_gamma")
        rank, bases = weights.shape
        small, large = self._sides(layer)
        left = b[:large, :bases].reshape(large, bases * rank)
        # PEFT lays the rows of A out by rank and the columns of B by base, and multiplies them as they lie.
        right = (a[:, :, :small] * weights.unsqueeze(2) * gamma).reshape(rank * bases, small)
        change = left @ right
        scale = layer.settings.number("randlora_alpha", 640) / rank
        return (change if small == layer.in_features else change.T) * scale

    def _sides(self, layer: Layer) -> tuple[int, int]:
        return min(layer.out_features, layer.in_features), max(layer.out_features, layer.in_features)

    def _projections(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        """The two random matrices: out of the file, or drawn again from the seed as PEFT draws them."""
        if layer.has_shared("randlora_A"):
            return layer.shared("randlora_A"), layer.shared("randlora_B")
        import torch

        layers = list(layer.siblings().values())
        sides = max(one.out_features for one in layers), max(one.in_features for one in layers)
        small, large = min(sides), max(sides)
        rank = layer.size("randlora_lambda")[0]
        bases = math.ceil(small / rank)
        generator = torch.Generator().manual_seed(layer.settings.integer("projection_prng_key", 0))
        if layer.settings.flag("sparse") or layer.settings.flag("very_sparse"):
            sparsity = math.sqrt(small) if layer.settings.flag("very_sparse") else 3
            shapes = (rank, 1, small), (large, bases, rank)
            a, b = (_signs(torch.rand(shape, generator=generator), sparsity) for shape in shapes)
        else:
            a = _kaiming((rank, 1, small), generator)
            b = torch.cat([_kaiming((large, 1, rank), generator) for _ in range(bases)], 1)
        return (a / a.std()).float(), (b / b.std()).float()


def _kaiming(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """PEFT draws in bfloat16."""
    import torch

    drawn: torch.Tensor = torch.nn.init.kaiming_uniform_(
        torch.empty(shape, dtype=torch.bfloat16), a=math.sqrt(5), generator=generator
    )
    return drawn


def _signs(drawn: torch.Tensor, sparsity: float) -> torch.Tensor:
    """-1 and 1 with probability `1 / (2 sparsity)` each, else 0 (Achlioptas, 2003)."""
    return (drawn > 1 - 1 / (2 * sparsity)).float() - (drawn < 1 / (2 * sparsity)).float()
