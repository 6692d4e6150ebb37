"""Trials of stream adapters: what is computed of them, when their claims hold, and how their cells are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.adaptation.arms import SEEDS
from benchmarks.adaptation.claims import OPEN
from benchmarks.adaptation.trials import contexts, drifting, lent, systems
from benchmarks.adaptation.trials.asked import TRIALS, ask_trials, missing
from benchmarks.adaptation.trials.tables import tables
from benchmarks.adaptation.trials.trial import TrialCell, TrialCells, between, number
from benchmarks.claims.verdict import FAILS, HOLDS, Figure
from genepool.adaptation.gains import FollowingGains, GainCosts

Values = Mapping[tuple[str, str], float]


def cells_of(path: Path, trial: str, values: Values, seeds: int = SEEDS) -> TrialCells:
    """Cells of twenty examples each, the same but for a little that examples and seeds differ in."""
    cells = TrialCells(path)
    for seed in range(seeds):
        little = 1e-6 * (np.arange(20) + seed)
        cells.add(trial, seed, TrialCell({key: one + little for key, one in values.items()}))
    return cells


def verdict(path: Path, trial: str, values: Values, seeds: int = SEEDS) -> str:
    (judged,) = ask_trials(cells_of(path, trial, values, seeds))
    return judged.verdict


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    cells = cells_of(path, "lent examples", {("noise", "accuracy"): 1 / 3}, 2)
    with open(path, "a") as file:
        file.write('{"trial": "lent ex')
    again = TrialCells(path)
    for seed in range(2):
        ours, theirs = (one.of("lent examples")[seed].values for one in (cells, again))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tolist() == theirs[key].tolist() for key in ours)
    assert len(missing(again)) == SEEDS * len(TRIALS) - 2
    # The line that was cut off is gone from the file too.
    assert path.read_text().endswith("}\n")


def test_numbers_by_example_are_resampled_in_pairs() -> None:
    """What all examples share makes no interval; what differs between them does."""
    draw = np.random.default_rng(0)
    second = draw.normal(size=200)
    alike = Figure.of([between(second + 1, second)])
    assert (alike.difference, alike.lo, alike.hi) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    apart = Figure.of([between(second + draw.normal(size=200), second)])
    assert 0.2 < apart.hi - apart.lo < 0.4
    assert Figure.of([number(3.0, 1.0)]).difference == 2.0


def test_a_table_has_means_over_the_seeds(tmp_path: Path) -> None:
    values = {(arm, column): 0.5 for arm in drifting.ARMS for column in ("steady", "drift")}
    values |= {(arm, "rate"): 0.01 for arm in drifting.ARMS}
    lines = tables(cells_of(tmp_path / "a.jsonl", "drifting series", values))
    assert lines[0] == "## Drifting series"
    assert "| bias alone | 0.5000 ± 0.0000 | 0.5000 ± 0.0000 | 0.0100 ± 0.0000 |" in lines
    assert tables(TrialCells(tmp_path / "b.jsonl")) == []


# ---------------------------------------------------------------------- a series that drifts


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, HOLDS),
        ({("PETSA", "steady"): 0.4}, FAILS),
        ({("bias alone", "drift"): 0.4}, FAILS),
        ({("full tuning, whole", "drift"): 0.4}, FAILS),
        ({("refit every period, whole", "drift"): 0.4}, FAILS),
    ],
)
def test_petsa_must_beat_every_control(tmp_path: Path, changed: Values, expected: str) -> None:
    values = {(arm, series): 0.1 for arm in drifting.ARMS for series in ("steady", "drift")}
    values |= {("PETSA", "drift"): 0.3, ("PETSA, whole", "drift"): 0.3}
    assert verdict(tmp_path / "cells.jsonl", "drifting series", values | changed) == expected
    assert verdict(tmp_path / "few.jsonl", "drifting series", values | changed, 3) == OPEN


def test_a_gain_is_the_share_of_the_error() -> None:
    theirs = np.arange(1.0, 61.0)
    found = drifting.in_blocks(0.75 * theirs, theirs)
    # Of 60 windows two whole blocks of 24 are left.
    assert found.shape == (2,)
    assert found.mean() == pytest.approx(0.25)
    # A block with more error counts for more.
    assert found[1] > found[0]
    assert drifting.in_blocks(theirs, theirs).tolist() == [0, 0]


@pytest.mark.slow
def test_an_arm_of_the_drifting_series_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from genepool.testbed import build

    def small(seed: int) -> Path:
        build(tmp_path / str(seed), bed="series", tiny=True, seed=seed, overwrite=True)
        return tmp_path / str(seed)

    monkeypatch.setattr(drifting, "_bed", small)
    monkeypatch.setattr(drifting, "RATES", (1e-3,))
    monkeypatch.setattr(drifting, "ARMS", {"PETSA": drifting.ARMS["PETSA"]})
    drifting.chosen.cache_clear()
    cell = drifting.measured(1)
    drifting.chosen.cache_clear()
    assert {key: len(one) for key, one in cell.values.items()} == {
        ("PETSA", "rate"): 1, ("PETSA", "steady"): 15, ("PETSA", "drift"): 15,
    }  # fmt: skip
    assert cell.mean("PETSA", "rate") == 1e-3


# ---------------------------------------------------------------------- new systems

_GOOD: Values = {
    **{("CAMEL", kind): 0.1 for kind in systems.KINDS}, **{("MAML", kind): 0.2 for kind in systems.KINDS},
    ("CAMEL", "not affine"): 0.5, ("MAML", "not affine"): 0.5, ("CAMEL", "R^2, pendulum"): 0.99,
    ("CAMEL", "R^2, made"): 0.99, ("CAMEL", "R^2, not affine"): 0.2, ("CAMEL", systems.TRAINING): 1.0,
    ("CAMEL", systems.FOLLOWING): 0.0, ("MAML", systems.TRAINING): 20.0, ("MAML", systems.FOLLOWING): 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, HOLDS),
        ({("CAMEL", "made"): 0.3}, FAILS),
        ({("CAMEL", systems.TRAINING): 3.0}, FAILS),
        ({("CAMEL", systems.FOLLOWING): 0.2}, FAILS),
        ({("CAMEL", "R^2, pendulum"): 0.94}, FAILS),
        # What also holds where the claim says it must not.
        ({("CAMEL", "not affine"): 0.4}, FAILS),
        ({("CAMEL", "R^2, not affine"): 0.99}, FAILS),
    ],
)
def test_camel_must_be_better_quicker_and_tell_the_parameters(tmp_path: Path, changed: Values, expected: str) -> None:
    assert verdict(tmp_path / "cells.jsonl", "new systems", {**_GOOD, **changed}) == expected


def test_systems_are_linear_in_their_parameters_or_not() -> None:
    """The targets of two systems, weighed, are those of the system of the weighed parameters."""
    for kind in systems.KINDS:
        make, _ = systems.KINDS[kind]
        one = make(np.random.default_rng(0), 40, 30, 1)
        # All systems read the same inputs here, so that targets are a matrix, systems by examples.
        same = make(_SameInputs(0), 40, 30, 1).targets[..., 0]
        with_one = np.hstack([make(_SameInputs(0), 40, 30, 1).parameters, np.ones((40, 1))])
        left = same - with_one @ np.linalg.lstsq(with_one, same, rcond=None)[0]
        assert (np.abs(left).max() < 1e-9) == (kind != "not affine")
        assert one.inputs.shape == (40, 30, 2)
        assert np.abs(one.inputs).max() <= 1


class _SameInputs:
    """A generator that draws the same inputs for every system."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, size: object = None) -> np.ndarray:
        if isinstance(size, tuple) and len(size) == 3:
            return np.broadcast_to(self._draw.uniform(low, high, size[1:]), size)
        return self._draw.uniform(low, high, size)


def test_r2_is_1_for_an_affine_map_and_0_for_the_mean() -> None:
    draw = np.random.default_rng(0)
    weights, others = draw.normal(size=(12, 3)), draw.normal(size=(9, 3))
    turn = draw.normal(size=(3, 2))
    known, theirs = weights @ turn + 4, others @ turn + 4
    assert systems.identified(weights, known, others, theirs) == pytest.approx(1)
    flat = np.zeros((12, 3))
    near = systems.identified(flat, theirs.mean(0) + np.zeros((12, 2)), np.zeros((9, 3)), theirs)
    assert near == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_systems_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "CAMEL_STEPS", 40)
    monkeypatch.setattr(systems, "MAML_STEPS", 40)
    cell = systems.measured(0)
    assert {column for _, column in cell.values} == set(TRIALS["new systems"].columns)
    assert len(cell.values["MAML", "pendulum"]) == systems.HELD_OUT
    learned, held_out = systems.systems_of_kind("made", 0)
    assert learned.targets.std() == pytest.approx(1)
    shown, asked = systems._split(held_out)[3]
    assert (len(shown[0]), len(asked[1])) == (systems.SHOTS, systems.ASKED)
    np.testing.assert_allclose(shown[1][:, 0], held_out.targets[3, : systems.SHOTS, 0], rtol=1e-6)


# ---------------------------------------------------------------------- switched contexts


def test_gains_must_recover_most_of_the_drop_with_few_parameters(tmp_path: Path) -> None:
    values = {
        ("as on the source", "code length"): 1.0, ("gains alone", "code length"): 0.55,
        ("full retraining", "code length"): 0.5, ("gains alone", "parameters"): 4.0,
        ("full retraining", "parameters"): 100.0,
    }  # fmt: skip
    assert verdict(tmp_path / "a.jsonl", "switched contexts", values) == HOLDS
    for at, changed in enumerate(({("gains alone", "code length"): 0.65}, {("gains alone", "parameters"): 6.0})):
        assert verdict(tmp_path / f"{at}.jsonl", "switched contexts", {**values, **changed}) == FAILS


def test_patches_are_cut_image_by_image() -> None:
    images = np.arange(128.0).reshape(2, 64)
    found = contexts.patches(images)
    assert found.shape == (18, 36)
    assert found[0, :7].tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert found[1, 0] == 1
    assert found[3, 0] == 8
    assert found[9, 0] == 64


def test_retraining_never_writes_longer_codes_and_ends_where_a_solver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    images = torch.tensor(draw.normal(size=(40, 3)) * np.array([2.0, 1.0, 0.5]))
    costs = GainCosts(0.3, 0.2, 0.9, 5)
    following = FollowingGains(images[:20], 1, costs)
    lengths = []
    for turns in range(30):
        monkeypatch.setattr(contexts, "TURNS", turns)
        dictionary, gains = contexts.retrained(
            images[20:], following.dictionary, following.rest, following.first, costs
        )
        torch.testing.assert_close(dictionary.norm(dim=0), torch.ones(1, dtype=torch.float64))
        lengths.append(contexts.code_length(images[20:], dictionary, gains, following.first, costs).mean())
    assert (np.diff(lengths) <= 1e-12).all()

    def length(flat: np.ndarray) -> float:
        atom, gain = torch.tensor(flat[:3] / np.linalg.norm(flat[:3]))[:, None], torch.tensor(flat[3:])
        return float(contexts.code_length(images[20:], atom, gain, following.first, costs).mean())

    start = np.concatenate([following.dictionary[:, 0].numpy(), following.rest.numpy()])
    assert lengths[-1] == pytest.approx(minimize(length, start).fun, abs=1e-4)


@pytest.mark.slow
def test_contexts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "SOURCE", 1700)
    monkeypatch.setattr(contexts, "SEEN", 64)
    monkeypatch.setattr(contexts, "TURNS", 2)
    cell = contexts.measured(0)
    assert len(cell.values["gains alone", "code length"]) == 1797 - 1764
    assert cell.mean("gains alone", "parameters") == 16
    assert cell.mean("full retraining", "parameters") == 16 * 37
    # Two turns already write contexts shorter than the dictionary of the source does.
    assert cell.mean("full retraining", "code length") < cell.mean("as on the source", "code length")


# ---------------------------------------------------------------------- lent examples


@pytest.mark.parametrize(
    ("real", "noise", "expected"), [(0.805, 0.8, HOLDS), (0.85, 0.8, FAILS), (0.7, 0.8, FAILS), (0.6, 0.6, FAILS)]
)
def test_noise_must_help_as_much_as_a_real_source(tmp_path: Path, real: float, noise: float, expected: str) -> None:
    values = {
        ("a real source", "accuracy"): real, ("noise", "accuracy"): noise, ("no source", "accuracy"): 0.6,
    }  # fmt: skip
    assert verdict(tmp_path / "cells.jsonl", "lent examples", values) == expected


def test_components_are_the_principal_ones() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(60, 5)) * np.array([5.0, 3.0, 1.0, 0.5, 0.1])
    found = lent.components(images, 2)
    values, vectors = np.linalg.eigh(np.cov(images.T, bias=True))
    wanted = (images - images.mean(0)) @ vectors[:, ::-1][:, :2] / np.sqrt(values[-1])
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-8)


def test_few_of_each_class_are_drawn() -> None:
    digits = np.arange(60) % 10
    chosen = lent.few_of_each(digits, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 30
    assert np.bincount(digits[chosen]).tolist() == [3] * 10


def test_lent_examples_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.adaptation.shared_space import SpaceTraining

    monkeypatch.setattr(lent, "SpaceTraining", lambda *given: SpaceTraining(*given[:3], 15, given[4]))
    monkeypatch.setattr(lent, "DRAWS", 1)
    cell = lent.measured(0)
    found = {arm: cell.values[arm, "accuracy"] for arm in TRIALS["lent examples"].arms}
    assert {len(one) for one in found.values()} == {1797 - lent.LENT - lent.LABELLED}
    # Each learned something, and none is another.
    assert all(one.mean() > 0.3 for one in found.values())
    assert len({one.tobytes() for one in found.values()}) == 3
