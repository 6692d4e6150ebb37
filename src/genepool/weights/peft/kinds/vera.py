"""VeRA: one pair of random matrices for all modules, scaled by two trained vectors (arXiv:2310.11454)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    BIAS,
    COMMON,
    START,
    TARGETING,
    TRAINING,
    TRANSPOSED,
    declared,
    read,
    refused,
    unused,
)

if TYPE_CHECKING:
    import torch

_SETTINGS = {
    **COMMON,
    **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
    **BIAS,
    **TRANSPOSED,
    "r": unused("the shapes in the file tell it"),
    "projection_prng_key": read("the seed of the random matrices, where they are not in the file"),
    "save_projection": unused("the random matrices are in the file, or they are not"),
    "d_initial": START,
    "init_weights": START,
}


class VeRA(Kind):
    """`diag(b) B diag(d) A`, the first rows and columns of A and B as far as the module goes."""

    peft_type = "VERA"
    title = "VeRA"
    source = "arXiv:2310.11454"
    prefix = "vera_"
    parts = ("vera_lambda_b", "vera_lambda_d")
    shared = ("vera_A", "vera_B")
    settings = declared({**_SETTINGS, "vera_dropout": TRAINING})

    def check(self, layer: Layer) -> None:
        rank = math.prod(layer.size(f"{self.prefix}lambda_d"))
        layer.expect(f"{self.prefix}lambda_d", (rank,))
        layer.expect(f"{self.prefix}lambda_b", (layer.out_features,))
        if layer.has_shared(f"{self.prefix}A"):
            self._check_projections(layer, rank)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        a, b = self._projections(layer)
        d = layer.read(f"{self.prefix}lambda_d")[: b.shape[1]]
        scaled = layer.read(f"{self.prefix}lambda_b").unsqueeze(1) * b[: layer.out_features]
        return scaled @ (d.unsqueeze(1) * a[: len(d), : layer.in_features])

    def _check_projections(self, layer: Layer, rank: int) -> None:
        for part, axis, least in (
            (f"{self.prefix}A", 1, layer.in_features),
            (f"{self.prefix}B", 0, layer.out_features),
        ):
            found = layer.shared_size(part)
            whole = (rank, max(found[-1], least)) if axis else (max(found[0], least), self._rank(rank))
            layer.expect(part, whole, found)

    def _rank(self, rank: int) -> int:
        """Columns of B for as many trained numbers."""
        return rank

    def _projections(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        """The two random matrices: out of the file, or drawn again from the seed as PEFT draws them."""
        if layer.has_shared(f"{self.prefix}A"):
            return layer.shared(f"{self.prefix}A"), layer.shared(f"{self.prefix}B")
        import torch

        layers = layer.siblings().values()
        inputs, outputs = max(one.in_features for one in layers), max(one.out_features for one in layers)
        generator = torch.Generator().manual_seed(layer.settings.integer("projection_prng_key", 0))
        rank = math.prod(layer.size(f"{self.prefix}lambda_d"))
        return _drawn(rank, inputs, generator), _drawn(outputs, self._rank(rank), generator)


class PVeRA(VeRA):
    """VeRA with a distribution of the scales (arXiv:2512.07703); its mean is what is merged."""

    peft_type = "PVERA"
    title = "PVeRA"
    source = "arXiv:2512.07703"
    prefix = "pvera_"
    parts = ("pvera_lambda_b", "pvera_lambda_d")
    shared = ("pvera_A", "pvera_B")
    settings = declared(
        {
            **_SETTINGS,
            "pvera_dropout": TRAINING,
            "sample_at_inference": refused(
                "its scales are drawn anew for every input", "Set it to false, which takes the mean of the distribution"
            ),
            "generator_seed": TRAINING,
        }
    )

    def _rank(self, rank: int) -> int:
        # Half of the numbers are means, the other half spreads.
        return rank // 2


def _drawn(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Kaiming's uniform distribution for a matrix of so many columns."""
    import torch

    bound = math.sqrt(3) * math.sqrt(2) / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
