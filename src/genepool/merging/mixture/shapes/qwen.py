"""Qwen2-MoE: experts beside exactly one shared expert that has a gate, out of Llama, Mistral and Qwen2 models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.mixture.shapes.shape import MixtureShape, kept


class Qwen(MixtureShape):
    """The gate's weights of the chosen experts are normalised (`norm_topk_prob`), as in the dense model."""

    name = "qwen"
    order = 2
    dense = frozenset({"llama", "mistral", "qwen2"})
    shared = (1, 1)
    gates_shared = True

    def config(self, base: Mapping[str, Any], experts: int, shared: int, per_token: int | None) -> dict[str, Any]:
        return {
            **kept(base, "pretraining_tp", "mlp_bias", "attention_bias", "head_dim", "layer_types"),
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            "num_experts": experts,
            "num_experts_per_tok": per_token or min(2, experts),
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "sliding_window": None,
            "use_sliding_window": False,
            "mlp_only_layers": [],
            "moe_intermediate_size": base["intermediate_size"],
            "shared_expert_intermediate_size": base["intermediate_size"],
        }

    def expert(self, number: int, matrix: str) -> str:
        return f"mlp.experts.{number}.{matrix}.weight"

    def zeros(self, base: Mapping[str, Any], layer: str) -> dict[str, tuple[int, ...]]:
        # Its queries, keys and values have biases, which Llama and Mistral lack.
        heads, hidden = base["num_attention_heads"], base["hidden_size"]
        groups, width = base.get("num_key_value_heads") or heads, base.get("head_dim") or hidden // heads
        sizes = {"q_proj": heads * width, "k_proj": groups * width, "v_proj": groups * width}
        return {f"{layer}.self_attn.{name}.bias": (size,) for name, size in sizes.items()}
