"""C3A: block-circular convolution (arXiv:2407.19342)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, declared, unused

if TYPE_CHECKING:
    import torch


class C3A(Kind):
    """Blocks of circulant matrices, divided by the number of inputs as PEFT does."""

    peft_type = "C3A"
    title = "C³A"
    source = "arXiv:2407.19342"
    prefix = "c3a_"
    parts = ("c3a_kernel",)
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
            **BIAS,
            "block_size": unused("the shapes in the file tell it"),
            "block_size_pattern": unused("the shapes in the file tell it"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("c3a_kernel")
        size = found[-1] if len(found) == 3 and found[-1] else 1
        layer.expect("c3a_kernel", (layer.out_features // size, layer.in_features // size, size))
        if layer.out_features % size or layer.in_features % size:
            layer.expect("c3a_kernel", (layer.out_features, layer.in_features), (found[0] * size, found[1] * size))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        kernel = layer.read("c3a_kernel")
        rows, columns, size = kernel.shape
        # Row i of a block is its kernel moved i places to the right, around the end.
        places = torch.arange(size)
        blocks = kernel[:, :, (places - places.unsqueeze(1)) % size]
        return blocks.permute(0, 2, 1, 3).reshape(rows * size, columns * size) / layer.in_features
