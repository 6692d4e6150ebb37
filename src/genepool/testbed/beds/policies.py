"""The testbed of policies: a small network that balances a pole, and a specialist for each other length of the pole."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import InputError
from genepool.testbed.policies.builder import PolicySettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> PolicySettings:
    """See `genepool.testbed.beds`."""
    if regime != "elicit":
        raise InputError("the testbed of policies has one regime, elicit", where="regime", fix="Leave it out")
    return PolicySettings.of(tiny, seed, skills)
