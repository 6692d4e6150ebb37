"""Keys and values that stand before those of every input, in the attention of transformers' networks.

The network is told to compute its attention by a function of ours, which joins the prefix of a module to what the
module reads and then calls torch's. Caches and positions stay those of the input, so all ways of decoding are the same.
Forms of prefixes use it. Uses torch and transformers.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached

#: Gives the keys and values of a module's prefix, each (heads of keys, length, entries); None while there is none.
Prefix = Callable[[], "tuple[torch.Tensor, torch.Tensor] | None"]
_NAME = "genepool_prefix"
_prefixes: weakref.WeakKeyDictionary[Any, Prefix] = weakref.WeakKeyDictionary()


def heads_of(sites: ModelSites) -> tuple[int, int]:
    """(heads of keys and values, entries of each), from the config.

    Raises:
        InputError: the config does not say them.
    """
    settings = sites.settings.get("text_config") or sites.settings

    def said(*keys: str) -> int:
        return next((value for key in keys if type(value := settings.get(key)) is int and value > 0), 0)

    heads, width = said("num_attention_heads", "n_head"), said("hidden_size", "n_embd")
    kept = said("num_key_value_heads") or heads
    size = said("head_dim") or (width // heads if heads else 0)
    if not kept or not size:
        raise InputError("its config does not say its attention heads", where=sites.where, fix="Use another form")
    return kept, size


def layers_of(sites: ModelSites) -> int:
    """How many layers there are.

    Raises:
        InputError: the model has several lists of layers.
    """
    if len(sites.depth) > 1:
        raise InputError("has several lists of layers", where=sites.where, fix="Use another form")
    return next(iter(sites.depth.values()))


def put_before(attached: Attached, prefix: Callable[[int], tuple[torch.Tensor, torch.Tensor] | None]) -> None:
    """Gives every layer's attention a prefix, while the form acts.

    Args:
        attached: the form in its network.
        prefix: gives the keys and values of a layer's, each (heads, length, entries).

    Raises:
        InputError: the network does not compute its attention by a function that can be named.
    """
    network = attached.network
    _register()
    stack, depth = next(iter(attached.sites.depth.items()))
    if not network._can_set_attn_implementation():
        raise InputError(
            "its class does not let its attention be replaced", where=attached.sites.where, fix="Use another form"
        )
    for layer in range(depth):
        module = _attention(attached.module(f"{stack}.{layer}" if stack else str(layer)))
        if module is None:
            raise InputError("has a layer without attention", where=attached.sites.where, fix="Use another form")

        def given(layer: int = layer) -> tuple[torch.Tensor, torch.Tensor] | None:
            return prefix(layer) if attached.on else None

        _prefixes[module] = given
        attached.also_undo(functools.partial(_prefixes.pop, module, None))
    configs = [network.config]
    if (text := network.config.get_text_config()) is not network.config:
        configs.append(text)
    for config in configs:
        before = config._attn_implementation
        config._attn_implementation_internal = _NAME
        attached.also_undo(functools.partial(setattr, config, "_attn_implementation_internal", before))


def _attention(layer: torch.nn.Module) -> torch.nn.Module | None:
    """The attention of a layer: the first module that says whether it is causal."""
    return next((module for module in layer.modules() if hasattr(module, "is_causal")), None)


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if _NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(_NAME, _forward)
        # Always a mask of floats: without one, a causal kernel would line up the last key with the last query.
        ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    prefix = _prefixes[module]() if module in _prefixes else None
    if prefix is not None:
        rows, length = len(key), prefix[0].shape[1]
        key, value = (
            torch.cat([own.to(past).expand(rows, -1, -1, -1), past], 2)
            for own, past in zip(prefix, (key, value), strict=True)
        )
        if attention_mask is not None:
            seen = attention_mask.dtype == torch.bool
            attention_mask = torch.nn.functional.pad(attention_mask, (length, 0), value=seen)
    elif attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[2]]
    found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
    return found
