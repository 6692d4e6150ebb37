"""Mixtral: experts without a shared one, out of Llama- and Mistral-shaped models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.mixture.shapes.shape import MixtureShape, kept

_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


class Mixtral(MixtureShape):
    """Jiang et al. 2024, arXiv:2401.04088: the gate's softmax over the chosen experts weighs them."""

    name = "mixtral"
    order = 0
    dense = frozenset({"llama", "mistral"})

    def config(self, base: Mapping[str, Any], experts: int, shared: int, per_token: int | None) -> dict[str, Any]:
        return {
            **kept(base, "pretraining_tp", "mlp_bias", "attention_bias"),
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": experts,
            "num_experts_per_tok": per_token or min(2, experts),
            "sliding_window": None,
        }

    def expert(self, number: int, matrix: str) -> str:
        return f"block_sparse_moe.experts.{number}.{_NAMES[matrix]}.weight"

    def gate(self) -> str:
        return "block_sparse_moe.gate.weight"
