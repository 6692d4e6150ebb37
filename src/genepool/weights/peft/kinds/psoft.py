"""PSOFT: the base's first singular directions turned by an orthogonal matrix (arXiv:2505.11235)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.rotations import MOST_TERMS, cayley, cayley_neumann, skew
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    COMMON,
    START,
    TARGETING,
    TRAINING,
    TRANSPOSED,
    AdapterSettings,
    declared,
    read,
)

if TYPE_CHECKING:
    import torch

# svd_lowrank draws from torch's one generator of the process.
_DRAWING = threading.Lock()


class PSOFT(Kind):
    """`B (R - I) A`, A and B the singular vectors of the base's weight and R a scaled rotation."""

    peft_type = "PSOFT"
    title = "PSOFT"
    source = "arXiv:2505.11235"
    prefix = "psoft_"
    parts = ("psoft_R.weight", "psoft_R.vector_a", "psoft_R.vector_b")
    # A rotation of one direction has no angle.
    may_be_empty = ("psoft_R.weight",)
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **TRANSPOSED,
            "r": read("the rank"),
            "psoft_alpha": read("scale of A and B, divided by the rank; it cancels out of the change"),
            "psoft_dropout": TRAINING,
            "ab_svd_init": read("how the singular values are shared between A and B"),
            "psoft_svd": read("whether the singular vectors are exact"),
            "psoft_svd_lowrank_niter": read("steps of the inexact ones"),
            "random_seed": read("where the inexact ones start"),
            "psoft_orth": read("whether R is a rotation or any matrix"),
            "psoft_mag_a": TRAINING,
            "psoft_mag_b": TRAINING,
            "use_cayley_neumann": read("whether the inverse in Cayley's transform is a series"),
            "num_cayley_neumann_terms": read("its length"),
            "cayley_neumann_eps": read("the largest norm of what it is the series of"),
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        settings.choice("ab_svd_init", ("psoft_init", "pissa_init"), "psoft_init")
        settings.choice("psoft_svd", ("full", "lowrank"), "full")
        if settings.number("psoft_alpha", 32) <= 0:
            raise settings.error("psoft_alpha", "got a number that is not above 0")

    def check(self, layer: Layer) -> None:
        rank = self._rank(layer)
        orthogonal = layer.settings.get("psoft_orth") is not False
        layer.expect("psoft_R.weight", (rank * (rank - 1) // 2,) if orthogonal else (rank, rank))
        for side in "ab":
            if f"psoft_R.vector_{side}" in layer:
                layer.expect(f"psoft_R.vector_{side}", (rank,))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        rank = self._rank(layer)
        left, values, right = self._directions(layer, rank)
        turn = self._turn(layer, rank) - torch.eye(rank)
        # The scale divides the singular values and multiplies the change.
        if layer.settings.get("ab_svd_init") == "pissa_init":
            return (left * values.sqrt()) @ turn @ (values.sqrt().unsqueeze(1) * right)
        return (left * values) @ turn @ right

    def _turn(self, layer: Layer, rank: int) -> torch.Tensor:
        weight = layer.read("psoft_R.weight")
        turn = weight
        if layer.settings.get("psoft_orth") is not False:
            skewed = skew(weight.unsqueeze(0), rank)
            if layer.settings.flag("use_cayley_neumann"):
                if layer.settings.get("cayley_neumann_eps") is not None:
                    bound = layer.settings.number("cayley_neumann_eps", 0.9)
                    norm = skewed.norm()
                    skewed = skewed * (bound / (norm + 1e-12)) if norm > bound else skewed
                turn = cayley_neumann(skewed, layer.settings.integer("num_cayley_neumann_terms", 5, 1, MOST_TERMS))[0]
            else:
                turn = cayley(-skewed)[0]
        if "psoft_R.vector_b" in layer:
            turn = layer.read("psoft_R.vector_b").unsqueeze(1) * turn
        if "psoft_R.vector_a" in layer:
            turn = turn * layer.read("psoft_R.vector_a")
        return turn

    def _directions(self, layer: Layer, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first singular vectors and values of the weight; their signs are those that LAPACK gives, as in PEFT."""
        import torch

        weight = layer.weight()
        if layer.settings.get("psoft_svd") == "lowrank":
            with _DRAWING, torch.random.fork_rng(devices=[]):
                torch.manual_seed(layer.settings.integer("random_seed", 0))
                steps = layer.settings.integer("psoft_svd_lowrank_niter", 10, 0, 100)
                left, values, right = torch.svd_lowrank(weight, q=rank, niter=steps)
            return left, values, right.T
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]

    def _rank(self, layer: Layer) -> int:
        rank = layer.settings.integer("r", 32, 1)
        if rank > min(layer.out_features, layer.in_features):
            raise layer.settings.error("r", f"got {rank}, more than {layer.module} has directions")
        return rank
