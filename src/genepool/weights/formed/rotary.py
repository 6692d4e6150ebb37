"""Keys turned by places, as a model's own rotary positions turn them; its class and its config are asked.

PEFT's prefixes stand in front of an input that begins behind them, and ours in front of one that begins at place 0: the
keys of one are those of the other, turned by the length of the prefix. Uses torch and transformers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

# Rotary positions whose speeds do not depend on how long the input is.
_STEADY = (None, "default", "linear", "llama3", "yarn")
_AGREE = 1e-4


def turned(weights: Weights, keys: torch.Tensor, places: int) -> torch.Tensor:
    """Keys at other places.

    Args:
        weights: the model whose keys they are.
        keys: (heads, length, entries), float32.
        places: by how many places; may be below 0.

    Raises:
        InputError: the model has no rotary positions, or such as cannot be asked.
    """
    import torch

    # Asked here, since it loads torch, which many a command does without.
    from genepool.weights.meta_model import model_of

    model = model_of(weights.config)
    found = [] if model is None else [one for one in model.modules() if type(one).__name__.endswith("RotaryEmbedding")]
    if not found:
        raise _unturned(weights, "has no rotary positions")
    if len({type(one) for one in found}) > 1 or any(one not in _STEADY for one in _kinds(model.config)):
        raise _unturned(weights, "has rotary positions of several kinds, or such that depend on the input's length")
    source: Any = sys.modules[type(found[0]).__module__]
    try:
        rotary = type(found[0])(model.config)
        cos, sin = rotary(keys[None], torch.full((1, keys.shape[1]), places))
        scale = float(getattr(rotary, "attention_scaling", 1.0))
        moved: torch.Tensor = source.apply_rotary_pos_emb(keys[None], keys[None], cos, sin)[1][0] / scale
        cos, sin = rotary(keys[None], torch.full((1, keys.shape[1]), -places))
        back = source.apply_rotary_pos_emb(moved[None], moved[None], cos, sin)[1][0] / scale
    # Any class of transformers may be asked: one whose positions work otherwise says so in its own way.
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        raise _unturned(weights, "has rotary positions that cannot be asked") from None
    if moved.shape != keys.shape or not torch.allclose(back, keys, atol=_AGREE * max(1.0, float(keys.abs().max()))):
        raise _unturned(weights, "has rotary positions that cannot be turned back")
    return moved


def _kinds(config: Any) -> set[Any]:
    """The kinds of rotary positions that a config names."""
    text = config.get_text_config()
    said = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    layers = [one for one in said.values() if isinstance(one, dict)] or [said]
    return {one.get("rope_type", one.get("type")) for one in layers}


def _unturned(weights: Weights, what: str) -> InputError:
    return InputError(
        f"{what}, and PEFT lets an input begin behind a prefix where genepool lets it begin at place 0, so the two "
        "would answer differently",
        where=weights.name,
        fix="Use the prefix with what trained it",
    )
