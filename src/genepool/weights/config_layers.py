"""The number of layers in a config.json: where it stands for each stack of a model, and how it is changed.

A model with several stacks says their depths in several places: `text_config.num_hidden_layers`, `encoder_layers`,
`vision_config.depth`. Lists with one entry for each layer, and lists of layers, go along.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genepool.errors import InputError
from genepool.weights.stacks import Stack

# Keys that count the layers of the stack whose path or kind says the word, before those that count any.
_OF_ONE = {
    "encoder_layers": "encoder",
    "num_encoder_layers": "encoder",
    "decoder_layers": "decoder",
    "num_decoder_layers": "decoder",
    "num_global_layers": "global",
    "resampler_depth": "perceiver",
}
_OF_ANY = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
# Lists of some layers' numbers.
_NUMBERS = re.compile(r"layers|index|indices|_idx")


def with_depth(config: Mapping[str, Any], stack: Stack, origin: Sequence[int]) -> dict[str, Any]:
    """A config of the same model with other layers in one stack.

    Args:
        config: the config.json.
        stack: the stack, as the config has it now.
        origin: for each layer of the stack from now on, the layer it was.

    Raises:
        InputError: the depth changes, and nothing in the config says it.
    """
    result = copy.deepcopy(dict(config))
    place = _place(result, stack)
    words = {*stack.path.split("."), *re.split(r"[._]", stack.path), stack.kind}
    keys = [key for key, word in _OF_ONE.items() if word in words and place.get(key) == stack.layers]
    if not keys or "encoder" in words:
        # An encoder's depth is often said a second time, as that of the model; the decoder's is not.
        keys += [key for key in _OF_ANY if place.get(key) == stack.layers]
    if not keys and place is not result:
        # A tower's own config may count its layers as those of an encoder.
        keys = [key for key in _OF_ONE if place.get(key) == stack.layers]
    if not keys and len(origin) != stack.layers:
        raise InputError(
            f"config.json does not say that {stack.path} has {stack.layers} layers, so it cannot say {len(origin)}",
            where=stack.path,
            fix="Keep the number of layers of this stack",
        )
    for key in keys:
        place[key] = len(origin)
    for key, value in place.items():
        if isinstance(value, list):
            place[key] = _listed(key, value, stack.layers, origin)
    return result


def _place(config: dict[str, Any], stack: Stack) -> dict[str, Any]:
    """The part of a config that is about a stack."""
    place = config
    for _ in range(4):
        inner = {
            key.removesuffix("_config"): value
            for key, value in place.items()
            if isinstance(value, dict) and (key.endswith("_config") or key in ("encoder", "decoder"))
        }
        parts = re.split(r"[._]", stack.path)
        chosen = next((value for stem, value in inner.items() if stem == stack.kind or stem in parts), None)
        if chosen is None:
            return place
        place = chosen
    return place


def _listed(key: str, value: list[Any], before: int, origin: Sequence[int]) -> list[Any]:
    if len(value) == before and "layer" in key:
        return [value[layer] for layer in origin]
    numbers = all(type(one) is int and 0 <= one < before for one in value) and len(set(value)) == len(value)
    if numbers and _NUMBERS.search(key):
        return [new for new, old in enumerate(origin) if old in value]
    return value
