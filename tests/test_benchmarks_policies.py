"""The figures of policies: the page is that of the cells, and a claim is open until every seed is there."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.policies.__main__ import PAGE, known, page
from benchmarks.policies.claims import CLAIMS, OPEN, SEEDS, PolicyClaim

PSEC, KEEPS = (next(claim for claim in CLAIMS if claim.name == name) for name in ("psec", "cotasp"))


def cells(claim: PolicyClaim, differences: list[float]) -> dict[tuple[int, str], dict[str, list[float]]]:
    """Seeds whose second arm has .5 on every task, and the first so much more."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for seed, difference in enumerate(differences):
        found[seed, claim.first] = dict.fromkeys(claim.tasks, [0.5 + difference] * 4)
        found[seed, claim.second] = dict.fromkeys(claim.tasks, [0.5] * 4)
    return found


def test_the_page_is_that_of_the_cells() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(known())


@given(st.lists(st.floats(-0.2, 0.2), min_size=SEEDS, max_size=SEEDS))
def test_a_claim_is_decided_by_the_interval_of_all_seeds(differences: list[float]) -> None:
    figure, seeds = PSEC.figure(cells(PSEC, differences))
    assert figure is not None
    assert seeds == SEEDS
    half = 2.776 * np.std(differences, ddof=1) / SEEDS**0.5
    assert abs(figure.lo - (np.mean(differences) - half)) < 1e-9
    assert PSEC.verdict(cells(PSEC, differences)) == (HOLDS if figure.lo > 0 else FAILS)
    assert PSEC.verdict(cells(PSEC, differences[:-1])) == OPEN
    assert PSEC.verdict({}) == OPEN


def test_what_may_be_lost_is_a_share_of_the_score() -> None:
    assert KEEPS.verdict(cells(KEEPS, [-0.02] * SEEDS)) == HOLDS  # a share of .04
    assert KEEPS.verdict(cells(KEEPS, [-0.03] * SEEDS)) == FAILS  # of .06


def test_every_arm_of_a_claim_is_measured() -> None:
    from benchmarks.policies.arms import ARMS

    names: Any = {arm.name for arm in ARMS}
    assert all({claim.first, claim.second} <= names for claim in CLAIMS)
