"""Qwen3-MoE: experts without a shared one, out of Qwen3 models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.mixture.shapes.shape import MixtureShape, kept


class Qwen3(MixtureShape):
    """As Qwen2-MoE without the shared expert; queries and keys have norms."""

    name = "qwen3"
    order = 1
    dense = frozenset({"qwen3"})

    def config(self, base: Mapping[str, Any], experts: int, shared: int, per_token: int | None) -> dict[str, Any]:
        return {
            **kept(base, "layer_types"),
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": experts,
            "num_experts_per_tok": per_token or min(2, experts),
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "mlp_only_layers": [],
            "moe_intermediate_size": base["intermediate_size"],
        }

    def expert(self, number: int, matrix: str) -> str:
        return f"mlp.experts.{number}.{matrix}.weight"
