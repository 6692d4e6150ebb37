"""Inputs that a class takes, found by what its forward names; the first with which it computes serve both models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from benchmarks.architectures.tiny import VOCABULARY

_TOKENS = 7


def outputs_of(model: Any) -> tuple[dict[str, torch.Tensor], str] | None:
    """What a model computes of the first inputs it takes: (tensors by name, the inputs' names); None if of none."""
    # A cache made for text alone does not always suit the layers that were left.
    settings = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    for inputs in _candidates(model):
        try:
            torch.manual_seed(0)
            with torch.no_grad():
                found = model(**inputs, **settings)
        except Exception:
            continue
        tensors = dict(_tensors(found))
        if tensors:
            return tensors, "+".join(inputs)
    return None


def alike(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    """Whether two sets of tensors are equal, bit for bit where the tolerance is 0."""
    if first.keys() != second.keys():
        return False
    return all(
        torch.allclose(value.double(), second[name].double(), rtol=tolerance, atol=tolerance, equal_nan=True)
        if value.is_floating_point() and value.shape == second[name].shape
        else torch.equal(value, second[name])
        for name, value in first.items()
    )


def _candidates(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    named = set(inspect.signature(model.forward).parameters)
    ids = torch.arange(5, 5 + _TOKENS)[None]
    end = _setting(model, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < VOCABULARY:
        ids[0, -1] = end
    parts: dict[str, torch.Tensor] = {"input_ids": ids}
    channels, size = _setting(model, "num_channels", 3), _setting(model, "image_size", 224)
    size = size[0] if isinstance(size, list | tuple) else size
    torch.manual_seed(1)
    for pixels in dict.fromkeys((size if isinstance(size, int) else 224, 224, 64)):
        parts["pixel_values"] = torch.randn(1, channels if isinstance(channels, int) else 3, pixels, pixels)
        yield from _sets(named, model, parts)
    bins = _setting(model, "num_mel_bins", 80)
    frames = 2 * int(_setting(model, "max_source_positions", 100) or 100)
    for features in (torch.randn(1, bins, frames), torch.randn(1, 100, bins), torch.randn(1, 1, 1024, bins)):
        yield from _sets(named, model, {"input_ids": ids, "input_features": features})
    yield from _sets(named, model, {"input_ids": ids, "input_values": torch.randn(1, 16000)})
    yield from _sets(named, model, {"input_ids": ids, "input_values": torch.randn(1, 1, 16000)})
    yield from _sets(named, model, {"input_ids": ids, "input_values": torch.randn(1, 1024, bins)})
    yield from _sets(named, model, {"input_ids": ids, "pixel_values_videos": torch.randn(1, 4, 3, 64, 64)})


def _sets(named: set[str], model: Any, parts: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    kept = {name: value for name, value in parts.items() if name in named}
    main = getattr(model, "main_input_name", "input_ids")
    decoder = {"decoder_input_ids": parts["input_ids"]} if "decoder_input_ids" in named else {}
    boxes = {"bbox": torch.zeros(1, _TOKENS, 4, dtype=torch.long)} if "bbox" in named else {}
    sets = [{main: kept[main]}] if main in kept else []
    sets += [{main: kept[main], **decoder, **boxes}] if main in kept else []
    sets += [kept, {**kept, **decoder, **boxes}]
    sets += [{"input_ids": kept["input_ids"]}] if "input_ids" in kept else []
    if "input_ids" in kept and "multiple" in type(model).__name__.lower():
        sets.insert(0, {"input_ids": kept["input_ids"][None].repeat(1, 2, 1)})
    yield from (one for one in sets if one)


def _setting(model: Any, key: str, default: Any) -> Any:
    """A setting of the config or of one inside."""
    for config in (model.config, *(value for value in vars(model.config).values() if hasattr(value, "to_dict"))):
        found = getattr(config, key, None)
        if found is not None:
            return found
    return default


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(one, f"{prefix}.{key}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _tensors(one, f"{prefix}.{number}")
