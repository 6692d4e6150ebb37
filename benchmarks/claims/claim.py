"""What a claim is, and what one measurement of it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.claims.verdict import Contrast, Rule


@dataclass
class Measurement:
    """What one claim came to on one testbed with one seed.

    Attributes:
        contrasts: by name; "main" is there always.
        chosen: what was chosen on validation, in words or numbers, by what it was chosen for.
    """

    contrasts: dict[str, Contrast]
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One row of the page for each of its testbeds.

    Attributes:
        name: on the command line.
        words: the claim.
        source: where it is made, and what was found there.
        beds: where it is put.
        needs: methods and keys of recipes that must exist.
        measure: one testbed, one seed: what `measuring` opens for the kind of testbed.
        rule: when it holds.
    """

    name: str
    words: str
    source: str
    beds: tuple[str, ...]
    needs: tuple[str, ...]
    measure: Callable[[Any], Measurement]
    rule: Rule
