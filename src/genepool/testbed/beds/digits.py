"""The testbed of images: a small vision transformer and a specialist for each way of rearranging the digits."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import InputError
from genepool.testbed.digits.builder import DigitsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> DigitsSettings:
    """See `genepool.testbed.beds`."""
    if regime != "elicit":
        raise InputError("the digits testbed has one regime, elicit", where="regime", fix="Leave it out")
    return DigitsSettings.of(tiny, seed, skills)
