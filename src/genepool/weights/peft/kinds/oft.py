"""OFT: blocks of inputs turned by orthogonal matrices (arXiv:2306.07280; the series of arXiv:2506.19847)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.rotations import MOST_TERMS, cayley, cayley_neumann, skew, times_blocks
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRAINING, TRANSPOSED, declared, read, unused

if TYPE_CHECKING:
    import torch


class OFT(Kind):
    """`W diag(R, ..., R)^T`."""

    peft_type = "OFT"
    title = "OFT"
    source = "arXiv:2306.07280"
    prefix = "oft_"
    parts = ("oft_R.weight", "oft_embedding_R.weight")
    # A block of one input has no angle.
    may_be_empty = ("oft_R.weight", "oft_embedding_R.weight")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "oft_block_size": unused("the shapes in the file tell it"),
            "module_dropout": TRAINING,
            "init_weights": START,
            "coft": read("whether rotations are kept near none"),
            "eps": read("how near"),
            "block_share": read("whether all blocks turn alike"),
            "use_cayley_neumann": read("whether the inverse is a series"),
            "num_cayley_neumann_terms": read("its length"),
        }
    )

    def check(self, layer: Layer) -> None:
        part, features = self._part(layer), self._features(layer)
        found = layer.size(part)
        entries = found[1] if len(found) == 2 else 0
        size = self._size(entries)
        count = 1 if layer.settings.flag("block_share") else features // max(1, size)
        layer.expect(part, (count, size * (size - 1) // 2))
        if features % size:
            layer.expect(part, (features // size, entries))
        if layer.kernel and layer.kernel[0] != layer.kernel[-1]:
            raise layer.error("turns a kernel that is not square", "PEFT cannot merge it either")

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        part = self._part(layer)
        vectors = layer.read(part)
        size = self._size(vectors.shape[1])
        matrices = skew(vectors, size)
        if layer.settings.flag("coft"):
            bound = layer.settings.number("eps", 6e-5) / math.sqrt(len(matrices))
            lengths = matrices.norm(dim=(1, 2), keepdim=True)
            matrices = matrices * (bound / lengths.clamp_min(bound))
        if layer.settings.get("use_cayley_neumann") is not False:
            turns = cayley_neumann(matrices, layer.settings.integer("num_cayley_neumann_terms", 5, 1, MOST_TERMS))
        else:
            turns = cayley(matrices)
        if layer.layout == "embedding":
            weight = layer.stored_weight()
            return (times_blocks(weight, self._all(turns, weight.shape[1])) - weight).T
        weight = layer.weight()
        return times_blocks(weight, self._all(turns, weight.shape[1]).mT) - weight

    def _all(self, turns: torch.Tensor, features: int) -> torch.Tensor:
        """One rotation for every block, where they are shared."""
        return turns.expand(features // turns.shape[-1], -1, -1) if len(turns) == 1 else turns

    def _part(self, layer: Layer) -> str:
        return "oft_embedding_R.weight" if "oft_embedding_R.weight" in layer else "oft_R.weight"

    def _features(self, layer: Layer) -> int:
        return layer.out_features if layer.layout == "embedding" else layer.in_features

    def _size(self, entries: int) -> int:
        """The size of a block, from the number of entries above its diagonal."""
        return (1 + math.isqrt(1 + 8 * entries)) // 2
