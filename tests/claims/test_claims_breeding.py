"""Claims about populations: each arm runs once, on examples that all share, and diversity has a figure of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims import breeding
from benchmarks.claims.breeding import CLAIMS, PLAIN, BreedingWorld
from benchmarks.claims.claim import Measurement
from benchmarks.claims.page import Row
from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.evolve.quality import ARMS, Result
from benchmarks.evolve.world import World

TASKS = ("reverse", "sort", "upper", "caesar")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arms that solve a given share of 100 examples of every task; the names of those that ran."""
    ran: list[str] = []
    shares = {"best parent": 40, "GENOME": 60, "best static merge": 70, "GENOME+": 65, "M2N2": 80, PLAIN: 75}

    def arm(name: str, share: int) -> Result:
        ran.append(name)
        scores = {task: (np.arange(100) < share).astype(float) for task in TASKS}
        spread = {"M2N2": 0.3, PLAIN: 0.0}.get(name)
        return Result(math.nan, share / 100, 400, 1.0, spread, scores)

    monkeypatch.setattr(breeding, "ARMS", {n: lambda place, count, n=n, s=s: arm(n, s) for n, s in shares.items()})
    monkeypatch.setattr(breeding, "world", lambda seed, tiny: World(seed, None, {}, tmp_path))  # type: ignore[arg-type]
    return ran


def measured(name: str, seeds: int = 3) -> Row:
    claim = next(claim for claim in CLAIMS if claim.name == name)
    return Row(claim, "breeding", [claim.measure(BreedingWorld(seed)) for seed in range(seeds)])


def test_every_arm_that_a_claim_names_exists() -> None:
    for claim in CLAIMS:
        arms = [cell.cell_contents for cell in claim.measure.__closure__ or ()]
        assert set(arms) <= set(ARMS)
        assert len(set(arms)) == 2


@pytest.mark.slow
def test_verdicts_follow_the_scores(asked: list[str]) -> None:
    assert measured("genome-parents").verdict == HOLDS
    assert measured("genome-static").verdict == FAILS
    assert measured("succession").verdict == HOLDS
    assert measured("genome-static").figures["main"].difference == pytest.approx(-0.1)


def test_an_arm_runs_once_a_world(asked: list[str]) -> None:
    place = BreedingWorld(0)
    for claim in CLAIMS[:3]:
        claim.measure(place)
    assert sorted(asked) == sorted(["GENOME", "best parent", "best static merge", "GENOME+"])
    assert place.place.folder.name.startswith("claims-")


@pytest.mark.slow
def test_diversity_has_a_figure_that_only_seeds_widen(asked: list[str]) -> None:
    row = measured("m2n2")
    assert row.verdict == HOLDS
    figure = row.figures["disagreement"]
    assert (figure.first, figure.second, figure.lo, figure.hi) == pytest.approx((0.3, 0.0, 0.3, 0.3))
    assert "disagreement of the last candidates +0.300" in row.remark()
    read = Measurement({n: type(c).from_json(c.to_dict()) for n, c in row.measured[0].contrasts.items()})
    assert read.contrasts == row.measured[0].contrasts
