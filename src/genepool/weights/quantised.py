"""Whether a checkpoint's weights are packed for inference, told from its config, names and types alone.

Arithmetic on packed integers or eight-bit floats means nothing. Used by `genepool.merging`, which refuses such models,
and by its inspection, which says so.
"""

from __future__ import annotations

from pathlib import Path

from genepool.errors import InputError
from genepool.weights.weights import Weights

# What GPTQ, AWQ, compressed-tensors and bitsandbytes call their packed integers.
_PACKED = (".qweight", ".weight_packed", ".weight.quant_map", ".weight.nested_absmax", ".weight.absmax", ".SCB")


def quantised_by(weights: Weights) -> str:
    """The method that config.json says the model is quantised by; empty when it says none."""
    settings = (weights.config or {}).get("quantization_config")
    if settings is None:
        return ""
    return str(settings.get("quant_method") or "quantised") if isinstance(settings, dict) else "quantised"


def refuse_quantised(weights: Weights, where: str | Path, fix: str) -> None:
    """Refuses a model whose weights are packed, before anything else about it is looked at.

    Args:
        weights: the model.
        where: what errors call it.
        fix: the way out.

    Raises:
        InputError: its config says that it is quantised, or its tensors' names and types do.
    """
    if method := quantised_by(weights):
        named = "" if method == "quantised" else f" ({method})"
        raise InputError(f"the model is quantised{named}, and arithmetic needs its weights", where=where, fix=fix)
    for name in weights.names():
        if packed := packed_as(weights, name):
            raise InputError(f"the model is quantised: {packed}", where=f"{where}:{name}", fix=fix)


def packed_as(weights: Weights, name: str) -> str:
    """What is wrong with computing on a tensor, such as "stored as F8_E4M3"; empty when nothing is."""
    kind = weights.info(name).dtype
    if name.endswith(_PACKED):
        return f"packed weights ({kind})"
    # Whole numbers of eight bits in a matrix are a float's code: masks and places have other types, or one axis.
    code = kind in ("I8", "U8") and name.endswith("weight") and len(weights.info(name).shape) > 1
    return f"stored as {kind}" if kind.startswith("F8") or code else ""
