"""Whether a checkpoint's weights are packed for inference, told from its config, names and types alone.

Arithmetic on packed integers or eight-bit floats means nothing. Used by `genepool.merging`, which refuses such models,
and by its inspection, which says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.weights.weights import Weights

# What GPTQ, AWQ, compressed-tensors and bitsandbytes call their packed integers.
_PACKED = (".qweight", ".weight_packed", ".weight.quant_map", ".weight.nested_absmax", ".weight.absmax", ".SCB")


def quantisation_of(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a config says of how its weights are quantised; None when it says nothing.

    Of a model of several parts, the part that writes text may say it.
    """
    for said in _parts(config):
        if (settings := said.get("quantization_config")) is not None:
            return settings if isinstance(settings, dict) else {}
    return None


def without_quantisation(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The config of the same model with weights of floats."""
    if config is None:
        return None
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    inner = kept.get("text_config")
    return kept | {"text_config": without_quantisation(inner)} if isinstance(inner, dict) else kept


def _parts(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if config is not None:
        yield config
        if isinstance(inner := config.get("text_config"), dict):
            yield inner


def quantised_by(weights: Weights) -> str:
    """The method that config.json says the model is quantised by; empty when it says none."""
    settings = quantisation_of(weights.config)
    return "" if settings is None else str(settings.get("quant_method") or "quantised")


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
        raise InputError(f"the model is quantised{by_method(method)}", where=where, fix=fix)
    for name in weights.names():
        if packed := packed_as(weights, name):
            raise InputError(f"the model is quantised: {packed}", where=f"{where}:{name}", fix=fix)


def by_method(method: str) -> str:
    """How a model is quantised, and why its numbers are not read, as the rest of a sentence."""
    from genepool.weights.schemes import UNREAD

    title, why = UNREAD.get(method, (method, ""))
    said = "" if method == "quantised" else f" ({title})"
    return f"{said}, and {why}" if why else f"{said}, and arithmetic needs its weights"


def packed_as(weights: Weights, name: str) -> str:
    """What is wrong with computing on a tensor, such as "stored as F8_E4M3"; empty when nothing is."""
    kind = weights.info(name).dtype
    if name.endswith(_PACKED):
        return f"packed weights ({kind})"
    # Whole numbers of eight bits in a matrix are a float's code: masks and places have other types, or one axis.
    code = kind in ("I8", "U8") and name.endswith("weight") and len(weights.info(name).shape) > 1
    return f"stored as {kind}" if kind.startswith("F8") or code else ""
