"""Exponential moving averages (EMA) that a checkpoint holds beside its weights, and a model without them.

Training scripts save such a copy of every weight under a name of their own: `model_ema.NAME`, `ema_model.NAME`,
`ema.NAME`, `NAME.ema`. CompVis' scripts leave the dots of NAME out, as torch's buffers may have none. A name alone says
nothing, since a module may be called `ema`: a copy has a weight of its shape beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal

from genepool.errors import InputError, listed
from genepool.weights.change import BaseWithChange
from genepool.weights.naming.renamed import Renamed
from genepool.weights.naming.views import Leaf
from genepool.weights.weights import Weights

_WORDS = frozenset({"ema", "model_ema", "ema_model"})
_ENDING = ".ema"
# torch's AveragedModel keeps the copy as a part of this name.
_INNERMOST = "module."


class EmaCopies:
    """The EMA copies among the tensors of one checkpoint.

    Args:
        shapes: every name in it, second names of tied tensors included, with its shape.

    Attributes:
        weight_of: copy -> the weight that it is the average of.
        beside: what else lies where copies do: the decay, the number of updates.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        split = {name: found for name in shapes if (found := _split(name)) is not None}
        called: dict[str, list[str]] = {}
        for name in shapes.keys() - split.keys():
            for spelling in _spellings(name):
                called.setdefault(spelling, []).append(name)
        self.weight_of: dict[str, str] = {}
        for name, (_, weight) in split.items():
            if (own := self._weight(name, weight, called)) is not None:
                self.weight_of[name] = own
        places = {split[name][0] for name in self.weight_of} - {_ENDING}
        self.beside = {name for name, (place, _) in split.items() if place in places} - self.weight_of.keys()

    def __contains__(self, name: object) -> bool:
        return name in self.weight_of or name in self.beside

    def __bool__(self) -> bool:
        return bool(self.weight_of)

    @cached_property
    def unpaired(self) -> list[str]:
        """Tensors with the copies that no weight is like."""
        return sorted(name for name in self.beside if math.prod(self._shapes[name]) > 1)

    def _weight(self, copy: str, weight: str, called: Mapping[str, list[str]]) -> str | None:
        """The one weight of its shape that a copy's name means; the very name counts before one with other dots."""
        # A copy is made of the model inside, so its name may lack the first word; a file in another layout may lack it.
        inside = weight.partition(".")[2]
        alike = [name for name in called.get(_flat(weight), ()) if self._shapes[name] == self._shapes[copy]]
        if not alike and inside in called.get(_flat(inside), ()) and self._shapes[inside] == self._shapes[copy]:
            return inside
        exact = [name for name in alike if name == weight] or [n for n in alike if n.partition(".")[2] == weight]
        found = exact or alike
        return found[0] if len(found) == 1 else None


def ema_copies(weights: Weights) -> EmaCopies:
    """The EMA copies that a model holds; reads headers only."""
    return EmaCopies({name: weights.info(name).shape for name in (*weights.names(), *weights.aliases())})


def without_copies(weights: Weights, treatment: Literal["drop", "use"], way_out: str = "`ema: drop`") -> Weights:
    """A model without the EMA copies it holds.

    Args:
        weights: the model.
        treatment: `drop` leaves the copies out, `use` has them in place of the weights that they are copies of.
        way_out: how the user asks for `drop`, for errors.

    Returns:
        `weights` itself where it holds none.

    Raises:
        InputError: the copies are to be used, and one of them is of no weight, or the weights were changed beside them.
    """
    copies = ema_copies(weights)
    if not copies:
        return weights
    if treatment == "drop":
        return _WithoutCopies(weights, copies, {})
    if copies.unpaired:
        raise InputError(
            f"is beside EMA copies, and no weight has its name and shape{_more(copies.unpaired)}",
            where=f"{weights.name}:{copies.unpaired[0]}",
            fix=f"Write {way_out}",
        )
    if isinstance(weights, BaseWithChange):
        raise InputError(
            "holds EMA copies, and what is added to it changes its weights alone",
            where=weights.name,
            fix=f"Write {way_out}",
        )
    return _WithoutCopies(weights, copies, {weight: copy for copy, weight in copies.weight_of.items()})


class _WithoutCopies(Renamed):
    """A model without its EMA copies; some of its weights are read from them."""

    def __init__(self, inner: Weights, copies: EmaCopies, used: Mapping[str, str]) -> None:
        own = [name for name in (*inner.names(), *inner.aliases()) if name not in copies]
        ties = {alias: name for alias, name in inner.aliases().items() if alias not in copies and name not in copies}
        # A script that goes through parameters meets a tied one once, under either name.
        source = {ties.get(weight, weight): copy for weight, copy in used.items()}
        source |= {weight: copy for weight, copy in used.items() if weight not in ties}
        read = {name: source.get(ties.get(name, name), name) for name in own}
        super().__init__(inner, {name: Leaf(read[name], inner.info(read[name]).shape) for name in own}, ties)

    def stored_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.inner.stored_names() if name in self.views)


def _split(name: str) -> tuple[str, str] | None:
    """Where a copy lies, and the name of its weight; None where the name is not that of a copy."""
    words = name.split(".")
    if name.endswith(_ENDING):
        return _ENDING, name.removesuffix(_ENDING)
    for place, word in enumerate(words[:-1]):
        if word in _WORDS:
            before = "".join(f"{one}." for one in words[:place])
            return f"{before}{word}.", before + ".".join(words[place + 1 :]).removeprefix(_INNERMOST)
    return None


def _spellings(name: str) -> Iterable[str]:
    """What a copy of a weight may be called, without dots."""
    inside = name.partition(".")[2]
    return {_flat(name), _flat(inside)} - {""}


def _flat(name: str) -> str:
    return name.replace(".", "")


def _more(names: list[str]) -> str:
    return f" (nor have {listed(names[1:], 3)})" if len(names) > 1 else ""
