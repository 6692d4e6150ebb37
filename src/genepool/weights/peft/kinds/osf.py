"""OSF: the lesser singular directions of the weight trained anew (arXiv:2504.07097)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, declared, unused

if TYPE_CHECKING:
    import torch


class OSF(Kind):
    """The trained `U S V` in place of the weight's own beyond its first directions."""

    peft_type = "OSF"
    title = "OSF"
    source = "arXiv:2504.07097"
    prefix = "osf_"
    parts = ("osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            "target_modules": TARGETING["target_modules"],
            "effective_rank": unused("the shapes in the file tell it"),
            "rank_pattern": unused("the shapes in the file tell it"),
            "target_svd_config": unused("PEFT does not use it"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        count = layer.size("osf_svd_params.S_low")[0]
        layer.expect("osf_svd_params.S_low", (min(count, layer.out_features, layer.in_features),))
        layer.expect("osf_svd_params.U_low", (layer.out_features, count))
        layer.expect("osf_svd_params.V_low", (count, layer.in_features))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        trained = layer.read("osf_svd_params.U_low") * layer.read("osf_svd_params.S_low")
        left, values, right = torch.linalg.svd(layer.weight(), full_matrices=False)
        kept = len(values) - trained.shape[1]
        replaced = (left[:, kept:] * values[kept:]) @ right[kept:]
        change: torch.Tensor = trained @ layer.read("osf_svd_params.V_low") - replaced
        return change
