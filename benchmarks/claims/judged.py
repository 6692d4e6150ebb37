"""A claim with what was measured of it until now, whatever it is about: its figures, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from benchmarks.claims.verdict import Figure, Rule

#: The verdict of a claim some of whose seeds are missing.
OPEN = "not decided yet"


class RuledClaim(Protocol):
    """A claim that says when it holds."""

    @property
    def rule(self) -> Rule:
        """When it holds, by the names of the figures."""


ClaimT = TypeVar("ClaimT", bound=RuledClaim)


@dataclass(frozen=True)
class JudgedClaim(Generic[ClaimT]):
    """A claim with the seeds of which all cells are there.

    Attributes:
        claim: it.
        seeds: these.
        figures: what is compared, by name.
        wanted: how many seeds a verdict needs: a rule is about all of them.
    """

    claim: ClaimT
    seeds: tuple[int, ...]
    figures: Mapping[str, Figure]
    wanted: int

    @property
    def verdict(self) -> str:
        """One of the words of the other claims, or that seeds are missing."""
        return self.claim.rule.verdict(self.figures) if len(self.seeds) == self.wanted else OPEN
