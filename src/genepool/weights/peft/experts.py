"""Fused experts: parameters of a module that hold a matrix for each expert, as transformers keeps them in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from genepool.weights.architecture import architecture_of


def stores_inputs_first(config: Mapping[str, Any] | None, module: str) -> bool:
    """Whether a module keeps its experts' matrices as (in, out), as it says itself."""
    from genepool.weights.meta_model import model_of

    model = model_of(config)
    return model is not None and bool(getattr(model.get_submodule(module), "is_transposed", False))


def in_order(config: Mapping[str, Any] | None, names: Iterable[str]) -> list[str]:
    """Parameters in the order in which their modules define them, which is that of PEFT's wrappers."""
    architecture = architecture_of(config)
    places = {name: place for place, name in enumerate(() if architecture is None else architecture.tensors)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def target_words(config: Mapping[str, Any] | None, names: Collection[str]) -> list[str]:
    """What `target_parameters` says for these: their last two words where those mean no others, else whole names."""
    architecture = architecture_of(config)
    others = set(() if architecture is None else architecture.tensors) - set(names)
    words = sorted({".".join(name.split(".")[-2:]) for name in names})
    if any(other.endswith(f".{word}") for other in others for word in words):
        return sorted(names)
    return words
