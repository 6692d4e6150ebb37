"""Which tensors of a model are one under several names, as its loader decides: by the class, the config and the values.

transformers ties what the class and the config say, except two tensors that are both stored and differ. Used by
checkpoints, which count such tensors once, and by whatever lines up models that tie with models that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from genepool.weights.architecture import Architecture, architecture_of
from genepool.weights.weights import Weights


def stored_twice(
    config: Mapping[str, Any] | None, names: Iterable[str], equal: Callable[[str, str], bool]
) -> dict[str, str]:
    """Stored tensors that a loader ties to another stored one -> that one.

    Args:
        config: the parsed config.json. Where it names no architecture nothing is known to be tied.
        names: every name in the file.
        equal: whether two of them hold the same values.
    """
    architecture = architecture_of(config)
    copies: dict[str, str] = {}
    for group in _stored_groups(architecture, names) if architecture is not None else ():
        first, *others = group
        copies.update((name, first) for name in others if equal(first, name))
    return copies


def tied_names(weights: Weights) -> dict[str, str]:
    """Names in memory that no stored tensor of their own fills -> the tensor of `weights` that a loader gives them."""
    architecture = architecture_of(weights.config)
    if architecture is None or not architecture.ties:
        return {}
    aliases = weights.aliases()
    naming = architecture.naming({*weights.names(), *aliases})
    found: dict[str, str] = {}
    for group in architecture.tied_groups:
        filled = {name: naming.in_file(name) for name in group}
        stored = next((names[0] for names in filled.values() if len(names) == 1), None)
        if stored is not None:
            found.update((name, aliases.get(stored, stored)) for name, names in filled.items() if not names)
    return found


def _stored_groups(architecture: Architecture, names: Iterable[str]) -> list[list[str]]:
    """The stored names of each tied tensor that is stored more than once, the one that is tied to first."""
    if not architecture.ties:
        return []
    naming = architecture.naming(names)
    groups = []
    for group in architecture.tied_groups:
        # What is converted on the way (experts, fused matrices) is never tied to what is not.
        stored = [found[0] for name in group if len(found := naming.in_file(name)) == 1]
        if len(stored) > 1:
            groups.append(stored)
    return groups
