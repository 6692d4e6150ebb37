"""Why models do not fit together, where their classes tell it.

Another architecture, another head, a file that is not whole: `layout` asks for the one reason before it lists tensors,
so that a user is told the cause and not its traces.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from genepool.errors import listed
from genepool.weights import Checkpoint, Role, Weights, infer_roles
from genepool.weights.architecture import Architecture, architecture_of
from genepool.weights.naming import Renamed
from genepool.weights.stacks import text_part

# What configs call the sizes of matrices.
_SIZE = re.compile(r"(_size|_dim|_experts|_heads|_channels|^n_embd|^n_inner|^n_head|^d_\w+|^dim|^hidden_dim)$")

_WIDTH = re.compile(r"(^|\.)(hidden_size|d_model|n_embd|dim)$")


class Misfit(NamedTuple):
    """One reason why models do not fit.

    Attributes:
        what: the reason, as a clause.
        fix: a way out that works, as a sentence.
        where: the model at fault; empty when it is how they go together.
        head: whether it is no more than the heads.
    """

    what: str
    fix: str
    where: str = ""
    head: bool = False


def misfit(sources: Mapping[str, Weights], models: Sequence[str], base: str | None) -> Misfit | None:
    """The reason why models do not fit, where their classes tell it.

    Args:
        sources: every model, opened.
        models: those that are to fit, the reference first.
        base: the base, where the merge has one.
    """
    for model in models:
        if lost := missing_tensors(sources[model]):
            architecture = architecture_of(sources[model].config)
            assert architecture is not None
            return Misfit(
                f"is not whole: it lacks {listed(lost, 3)}, which {architecture.name} has",
                "Fetch or save the model again",
                model,
            )
    known = {model: found for model in models if (found := architecture_of(sources[model].config)) is not None}
    if len(known) < len(models):
        return None
    first = models[0]
    for model in models[1:]:
        if known[model].config.get("model_type") != known[first].config.get("model_type"):
            return Misfit(
                f"{first} is a {known[first].name} and {model} a {known[model].name}",
                "Merge models of one architecture",
            )
    other = next((model for model in models[1:] if known[model].name != known[first].name), None)
    if other is not None:
        return _other_head(known, first, other, base)
    sizes = (_other_size(known, first, model) for model in models[1:])
    return next((reason for reason in sizes if reason is not None), None)


def other_family(sources: Mapping[str, Weights], models: Sequence[str], inside: Collection[str]) -> Misfit | None:
    """Why models share nothing, though some names are alike: classes of other families, neither a part of the other.

    Args:
        sources: every model, opened.
        models: those that are to share something, the reference first.
        inside: those that are the language part of the reference.
    """
    first = models[0]
    ours = architecture_of(sources[first].config)
    for model in models[1:]:
        theirs = architecture_of(sources[model].config)
        if ours is None or theirs is None or model in inside:
            continue
        one, other = ours.config["model_type"], theirs.config["model_type"]
        if one == other or one in _parts(theirs.settings) or other in _parts(ours.settings):
            continue
        if text_part(_roles(sources[model]), theirs.config, _roles(sources[first])):
            continue
        return Misfit(
            f"{first} is a {ours.name} and {model} a {theirs.name}, which share nothing but names",
            "Merge models of one architecture",
        )
    return None


def _roles(weights: Weights) -> dict[str, Role]:
    return infer_roles({name: weights.info(name) for name in weights.names()})


def _parts(config: Mapping[str, Any]) -> set[str]:
    """The model types of the models that a config holds as parts."""
    found: set[str] = set()
    for value in config.values():
        if isinstance(value, Mapping):
            found |= _parts(value) | ({value["model_type"]} if isinstance(value.get("model_type"), str) else set())
    return found


def missing_tensors(weights: Weights) -> tuple[str, ...]:
    """Names in memory that a file does not fill, and that its class therefore draws at random."""
    while isinstance(weights, Renamed):
        weights = weights.inner
    architecture = architecture_of(weights.config)
    if architecture is None or not isinstance(weights, Checkpoint):
        return ()
    return architecture.naming((*weights.names(), *weights.aliases())).missing


def _other_head(known: Mapping[str, Architecture], first: str, other: str, base: str | None) -> Misfit | None:
    heads = {model: _head_of(known[model]) for model in (first, other)}
    if not heads[first] and not heads[other]:
        return None
    having = first if heads[first] else other
    what = (
        f"{first} is a {known[first].name} and {other} a {known[other].name}, so their heads differ"
        f" ({having} has {listed(heads[having], 3)})"
    )
    if base == first:
        return Misfit(what, "Name a base of the models' own class, or leave `base` out (method: linear)", head=True)
    return Misfit(what, "Merge models of one class", head=True)


def _other_size(known: Mapping[str, Architecture], first: str, other: str) -> Misfit | None:
    """The first size in which two configs of one class differ; vocabularies, contexts and depths have their own."""
    ours, theirs = _sizes(known[first].config), _sizes(known[other].config)
    # The width first: the size of a head, and others, often follow from it.
    for key, size in sorted(ours.items(), key=lambda one: not _WIDTH.search(one[0])):
        if theirs.get(key, size) != size:
            return Misfit(
                f"{key} is {size} in {first} and {theirs[key]} in {other}", "Merge models of one architecture and size"
            )
    return None


def _sizes(config: Mapping[str, Any], prefix: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _sizes(value, f"{prefix}{key}.")
        elif type(value) is int and _SIZE.search(key) and not key.endswith("vocab_size"):
            found[prefix + key] = value
    return found


def _head_of(architecture: Architecture) -> list[str]:
    """What a class holds beside its body, tied tensors left out."""
    prefix = f"{architecture.base_model_prefix}."
    own = [name for name in architecture.tensors if name not in architecture.ties]
    return [name for name in own if not name.startswith(prefix)] if any(n.startswith(prefix) for n in own) else []
