"""LoKr: a Kronecker product of two matrices, each whole or of low rank (LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.lycoris import LYCORIS, rank_scale, tucker
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import TRAINING, declared, read, unused

if TYPE_CHECKING:
    import torch


class LoKr(Kind):
    """`alpha / r * kron(W1, W2)`."""

    peft_type = "LOKR"
    title = "LoKr"
    source = "arXiv:2309.14859"
    prefix = "lokr_"
    parts = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    settings = declared(
        {
            **LYCORIS,
            "r": read("the rank that the scale is divided by"),
            "rank_pattern": read("the same of modules by pattern"),
            "decompose_both": unused("the file tells which factors are decomposed"),
            "decompose_factor": unused("the shapes in the file tell it"),
            "rank_dropout_scale": TRAINING,
        }
    )

    def check(self, layer: Layer) -> None:
        first, second = self._shape(layer, "1"), self._shape(layer, "2")
        outputs, inputs = first[0] * second[0], first[1] * second[1] * math.prod(second[2:])
        layer.expect(next(iter(layer.parts)), (layer.out_features, layer.in_features), (outputs, inputs))

    def _shape(self, layer: Layer, number: str) -> tuple[int, ...]:
        """Shape of one of the two matrices, kernels included."""
        if f"lokr_w{number}" in layer:
            return layer.size(f"lokr_w{number}")
        a, b = layer.size(f"lokr_w{number}_a"), layer.size(f"lokr_w{number}_b")
        if f"lokr_t{number}" in layer:
            core = layer.size(f"lokr_t{number}")
            layer.expect(f"lokr_t{number}", (a[0], b[0], *(*layer.kernel, 1)[:2]))
            return a[1], b[1], *core[2:]
        if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            layer.expect(f"lokr_w{number}_b", (a[-1], b[-1]))
        return a[0], b[1]

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        first, second = self._matrix(layer, "1"), self._matrix(layer, "2")
        # A kernel goes with the second matrix; its places are the fastest columns of the weight as a matrix.
        while second.dim() > first.dim():
            first = first.unsqueeze(-1)
        whole = torch.kron(first, second.contiguous()).reshape(layer.out_features, layer.in_features)
        return whole.mul_(rank_scale(layer, self._rank(layer)))

    def _matrix(self, layer: Layer, number: str) -> torch.Tensor:
        if f"lokr_w{number}" in layer:
            return layer.read(f"lokr_w{number}")
        a, b = layer.read(f"lokr_w{number}_a"), layer.read(f"lokr_w{number}_b")
        return tucker(layer.read(f"lokr_t{number}"), a, b) if f"lokr_t{number}" in layer else a @ b

    def _rank(self, layer: Layer) -> int:
        """The rank that the scale is divided by; the file does not hold it where both matrices are whole."""
        pattern = layer.settings.by_module("rank_pattern", layer.module)
        return max(1, int(pattern)) if pattern is not None else layer.settings.integer("r", 8, 1)
