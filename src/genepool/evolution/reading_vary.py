"""What a study file says it varies, read into the options of one kind of genome.

Knows the list of representations, the strategies, and the keys of before there was `vary`; the study file's model asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.errors import InputError, nearest
from genepool.evolution import older_keys
from genepool.evolution.representations import kind_for, kinds_for, representation, representations, strategies_for
from genepool.evolution.representations.base import Vary
from genepool.evolution.strategies import StrategyEntry, strategies
from genepool.schema import PartError, validate_part


def read_vary(vary: Any, older: Mapping[str, Any], strategy: str) -> Vary:
    """The options of what a study varies.

    Args:
        vary: what stands under `vary`; None where the key is not there.
        older: the keys that said it before, and what they hold.
        strategy: the study's strategy.

    Raises:
        PartError: an unknown strategy, kind or option, a kind that the strategy cannot search, or both ways at once.
        ValueError: older keys that do not fit the strategy.
    """
    entry = _known(strategy)
    if not older:
        return _as_made(vary, entry) if isinstance(vary, Vary) else _options({} if vary is None else vary, entry)
    if vary is not None:
        key = next(iter(older))
        raise PartError(InputError("contradicts `vary`", where=key, fix="Write it under `vary` only"))
    said = older_keys.translated(older, entry)
    return _checked(said.kind, said.options, said.key)


def _known(strategy: str) -> StrategyEntry:
    known = strategies()
    if strategy not in known:
        fix = nearest(strategy, known)
        raise PartError(InputError(f"unknown strategy '{strategy}'", where="strategy.name", fix=fix))
    return known[strategy]


def _as_made(vary: Vary, strategy: StrategyEntry) -> Vary:
    """Options that a caller made as such; of which kind is seen by their class."""
    kinds = {one.Options: kind for kind, one in representations().items()}
    if type(vary) not in kinds:
        return _options(vary.model_dump(), strategy)
    vary.kind = kinds[type(vary)]
    _suit(vary.kind, strategy)
    return vary


def _options(said: Any, strategy: StrategyEntry) -> Vary:
    said = {"kind": said} if isinstance(said, str) else said
    if not isinstance(said, dict):
        return validate_part(Vary, said, "vary")
    kind = said.get("kind") or kind_for(strategy)
    if not isinstance(kind, str) or kind not in (known := representations()):
        fix = nearest(str(kind), known) if isinstance(kind, str) else "Name one of `genepool strategies`"
        raise PartError(InputError(f"unknown kind '{kind}'", where="vary.kind", fix=fix))
    _suit(kind, strategy)
    return _checked(kind, said, "vary")


def _suit(kind: str, strategy: StrategyEntry) -> None:
    if representation(kind).proposals != strategy.proposals:
        raise PartError(
            InputError(
                f"{strategy.name} proposes {strategy.proposals}, which cannot make {representation(kind).noun}",
                where="vary.kind",
                fix=f"Write one of {', '.join(kinds_for(strategy))}, or take a strategy that searches {kind}: "
                f"{', '.join(strategies_for(kind))}",
            )
        )


def _checked(kind: str, options: Any, key: str) -> Vary:
    model = representation(kind).Options
    given = {**options, "kind": kind} if isinstance(options, dict) else options
    return validate_part(model, given, key).standing_at(key)
