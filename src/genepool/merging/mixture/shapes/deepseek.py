"""DeepSeekMoE: experts beside at most one shared expert without a gate, out of Llama- and Mistral-shaped models.

transformers has no class for it: the config names the code of DeepSeek's own model on the hub, which a loader fetches
and runs only if it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.merging.mixture.shapes.shape import MixtureShape, kept

_CODE = "deepseek-ai/deepseek-moe-16b-base"


class Deepseek(MixtureShape):
    """Dai et al. 2024, arXiv:2401.06066, with every layer a mixture."""

    name = "deepseek"
    order = 3
    dense = frozenset({"llama", "mistral"})
    shared = (0, 1)

    def config(self, base: Mapping[str, Any], experts: int, shared: int, per_token: int | None) -> dict[str, Any]:
        return {
            **kept(base),
            "architectures": ["DeepseekForCausalLM"],
            "model_type": "deepseek",
            "n_routed_experts": experts,
            "n_shared_experts": shared or None,
            "num_experts_per_tok": per_token or min(1 if shared else 2, experts),
            "first_k_dense_replace": 0,
            "moe_layer_freq": 1,
            "scoring_func": "softmax",
            "norm_topk_prob": True,
            "moe_intermediate_size": base["intermediate_size"],
            "auto_map": {
                "AutoConfig": f"{_CODE}--configuration_deepseek.DeepseekConfig",
                "AutoModel": f"{_CODE}--modeling_deepseek.DeepseekModel",
                "AutoModelForCausalLM": f"{_CODE}--modeling_deepseek.DeepseekForCausalLM",
            },
        }

    def expert(self, number: int, matrix: str) -> str:
        return f"mlp.experts.{number}.{matrix}.weight"

    def shared_expert(self, matrix: str) -> str:
        return f"mlp.shared_experts.{matrix}.weight"
