"""Whether a merge unties what its reference ties, and what config.json must say then.

A loader ties by the class, the config and the values, so a tied base and a fine-tune with a head of its own give a
result with two tensors. The config is changed only where that came about, and only in the key that the class heeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from genepool.weights import Weights
from genepool.weights.architecture import Architecture, architecture_of

KEY = "tie_word_embeddings"


def untied_names(reference: Weights, config: Mapping[str, Any] | None, outputs: Collection[str]) -> tuple[str, ...]:
    """Names in memory that the reference ties to another and the result does not.

    Args:
        reference: the model whose config goes along.
        config: that of the result.
        outputs: the tensors of the result, each once.
    """
    architecture = architecture_of(config)
    if architecture is None or not architecture.ties:
        return ()
    before = architecture_of(reference.config)
    own = set(reference.names())
    if before is None or set(outputs) <= own:
        return ()
    return tuple(
        name
        for name, source in architecture.ties.items()
        if _apart(architecture, outputs, name, source) and not _apart(before, own, name, source)
    )


def untied_config(config: dict[str, Any], untied: Collection[str], stored: Collection[str]) -> dict[str, Any]:
    """The config with the key that ties set to false, where the class heeds it and misses no tensor then.

    Where it would, the key stays: a loader then tells by the values that the two are not one.

    Args:
        config: that of the result, which ties.
        untied: names in memory that are not to be tied.
        stored: every name in the result's files.
    """
    tied = architecture_of(config)
    assert tied is not None
    for changed in _variants(config):
        found = architecture_of(changed)
        if found is None or not found.ties.keys().isdisjoint(untied):
            continue
        if set(found.naming(stored).missing) <= set(tied.naming(stored).missing):
            return changed
    return config


def _apart(architecture: Architecture, names: Collection[str], name: str, source: str) -> bool:
    """Whether both names are filled by tensors of their own."""
    naming = architecture.naming(names)
    first, second = naming.in_file(name), naming.in_file(source)
    return bool(first) and bool(second) and first != second


def _variants(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config with the key off: at the top, in one of the configs inside, in all of them."""
    yield {**config, KEY: False}
    inside = [key for key, value in config.items() if isinstance(value, dict)]
    for key in inside:
        yield {**config, key: {**config[key], KEY: False}}
    yield {**config, **{key: {**config[key], KEY: False} for key in inside}, KEY: False}
