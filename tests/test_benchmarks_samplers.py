"""The figures of samplers: arms and claims fit, the worlds that are written here do what they say, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims.judged import OPEN
from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.composition.cells import Cell, Cells
from benchmarks.learning.claim import SEEDS, ask, key_of
from benchmarks.samplers import page
from benchmarks.samplers.asked import ARMS, CLAIMS, known_cells
from benchmarks.samplers.cubes import ENDS, Cubes, arms_of, trained
from benchmarks.samplers.poles import Replayed, by_mbtl, regret_of_equal_distances
from genepool.training.samplers import make_sampler
from genepool.training.samplers.parameters import ParameterSampler


def test_every_claim_is_about_arms_that_are_measured() -> None:
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    assert {need for claim in CLAIMS for need in claim.needs} == set(names) - {"prepared, uniform"}
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_a_cube_opens_when_a_neighbour_is_mastered() -> None:
    world = Cubes(3)
    near, beside, far = np.array([0.1, 0.1]), np.array([0.5, 0.5]), np.array([0.9, 0.9])
    assert world.score(beside) == 0.0
    assert [world.score(near) for _ in range(75)][-1] == 0.75
    assert world.score(far) == 0.0
    # Neighbours by a corner count too.
    assert world.score(beside) == 0.01
    # Mastered is more than three quarters full.
    assert world.mastered == 0.0
    assert world.score(near) == 0.76
    assert world.mastered == pytest.approx(1 / 9)
    assert [world.score(near) for _ in range(30)][-1] == 1.0
    turned = Cubes(3, (1, 1))
    assert turned.score(near) == 0.0
    assert turned.score(far) == 0.01


def test_a_student_is_told_what_was_drawn() -> None:
    arms = arms_of(2, 0)
    sampler = make_sampler("alp_gmm", {"parameters": ENDS, "window": 20, "largest": 2}, arms)
    assert isinstance(sampler, ParameterSampler)
    points, scores = trained(sampler, arms, Cubes(2), 40)
    assert points.shape == (40, 2)
    assert scores.max() > 0
    again, _ = trained(None, arms, Cubes(2), 40)
    assert again.tolist() != points.tolist()


def test_regret_by_hand() -> None:
    scores = np.eye(10)
    # One more context is solved with every one that is trained.
    assert Replayed((4, 0, 9, 2, 6)).regret(scores) == pytest.approx(1 - 0.3)
    assert Replayed((4, 4, 4, 4, 4)).regret(scores) == pytest.approx(1 - 0.1)
    assert regret_of_equal_distances(scores) == pytest.approx(1 - 0.3)
    assert len(set(by_mbtl(scores, 0, permuted=False).order)) == 5


def filled(path: Path, arms: dict[str, float], seeds: int) -> Cells:
    cells = Cells(path)
    for arm, loss in arms.items():
        for seed in range(seeds):
            said = {"rate": 1.0, "steps": 1, "numbers": {"loss": loss + 0.001 * seed}}
            cells.add(key_of(arm, seed), Cell({}, 1.0, said))
    return cells


@pytest.mark.parametrize(("ours", "verdict"), [(0.1, HOLDS), (0.9, FAILS)])
def test_a_verdict_is_about_all_seeds(tmp_path: Path, ours: float, verdict: str) -> None:
    arms = {"prepared, skill_it": ours, "prepared, stratified": 0.5}
    (found,) = ask(filled(tmp_path / "all.jsonl", arms, SEEDS), CLAIMS)
    assert (found.claim.name, found.verdict) == ("skill-it", verdict)
    text = page.page(Cells(tmp_path / "all.jsonl"))
    assert ("the reverse is seen" in text) == (verdict == FAILS)
    (few,) = ask(filled(tmp_path / "few.jsonl", arms, 2), CLAIMS)
    assert few.verdict == OPEN


def test_the_page_is_that_of_the_cells() -> None:
    assert (page.DOCS / "samplers.md").read_text() == page.page(known_cells())
