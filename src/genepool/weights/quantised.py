"""Whether a checkpoint's weights are packed for inference, told from its config, names and types alone.

Arithmetic on packed integers or eight-bit floats means nothing. Used by `genepool.merging`, which refuses such models,
and by its inspection, which says so.
"""

from __future__ import annotations

from genepool.weights.weights import Weights

# What GPTQ, AWQ, compressed-tensors and bitsandbytes call their packed integers.
_PACKED = (".qweight", ".weight_packed", ".weight.quant_map", ".weight.nested_absmax", ".weight.absmax", ".SCB")


def quantised_by(weights: Weights) -> str:
    """The method that config.json says the model is quantised by; empty when it says none."""
    settings = (weights.config or {}).get("quantization_config")
    if settings is None:
        return ""
    return str(settings.get("quant_method") or "quantised") if isinstance(settings, dict) else "quantised"


def packed_as(weights: Weights, name: str) -> str:
    """What is wrong with computing on a tensor, such as "stored as F8_E4M3"; empty when nothing is."""
    kind = weights.info(name).dtype
    if name.endswith(_PACKED):
        return f"packed weights of a quantised model ({kind})"
    return f"stored as {kind}" if kind.startswith("F8") else ""
