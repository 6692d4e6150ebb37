"""Gain control, heterogeneous adaptation, the sliding window and the course over domains, by their definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_streams import image_rows, rows, write_conv_model, write_stream
from scipy.optimize import minimize

from genepool.adaptation import Adaptation, load_stream
from genepool.adaptation.adapters.gain_control import GainControl
from genepool.adaptation.adapters.heterogeneous import Heterogeneous
from genepool.adaptation.domain_course import course_of, domain_ends, part_of
from genepool.adaptation.gains import code_costs, codes_of, gains_of, leading_directions, moments_of
from genepool.adaptation.orders import planned
from genepool.adaptation.shared_space import mean_distance
from genepool.errors import InputError

Cli = Callable[..., Any]


# ---------------------------------------------------------------------- gain control


def test_codes_and_gains_are_the_minimum_of_the_cost() -> None:
    draw = np.random.default_rng(0)
    images, dictionary = draw.normal(size=(4, 5)), draw.normal(size=(5, 3))
    gains, first, cost, anchor = np.array([1.0, 0.5, 2.0]), np.ones(3), 0.3, 0.7

    def code(flat: np.ndarray) -> float:
        r = flat.reshape(4, 3)
        return float((((images - (r * gains) @ dictionary.T) ** 2).sum() + cost * (r**2).sum()) / 4)

    best = minimize(code, np.zeros(12), tol=1e-12).x.reshape(4, 3)
    tensors = [torch.tensor(one) for one in (images, dictionary, gains, first)]
    codes = codes_of(tensors[0], tensors[1], tensors[2], cost)
    np.testing.assert_allclose(codes.numpy(), best, atol=1e-5)
    told = code_costs(tensors[0], tensors[1], codes, tensors[2], cost)
    assert float(told.mean()) == pytest.approx(code(best.ravel()))

    def gain(g: np.ndarray) -> float:
        left = images - (codes.numpy() * g) @ dictionary.T
        return float((left**2).sum() / 4 + anchor * ((g - first) ** 2).sum())

    found = gains_of(moments_of(tensors[0], tensors[1], codes), tensors[3], anchor)
    np.testing.assert_allclose(found.numpy(), minimize(gain, np.ones(3), tol=1e-12).x, atol=1e-5)


def test_the_directions_are_the_principal_ones() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(50, 4)) * np.array([5.0, 1.0, 0.1, 0.0])
    images -= images.mean(0)
    directions, spread = leading_directions(torch.tensor(images), 10)
    # There is no fourth direction.
    assert directions.shape == (4, 3)
    values, vectors = np.linalg.eigh(np.cov(images.T, bias=True))
    np.testing.assert_allclose(spread.numpy() ** 2, values[::-1][:3], rtol=1e-6)
    np.testing.assert_allclose(np.abs(directions.numpy().T @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-6)


def test_gains_rest_on_the_source_and_damp_what_the_context_amplifies(base: Path, tmp_path: Path) -> None:
    source = rows(40, seed=7)
    same = write_stream(tmp_path / "same", [{**row, "id": f"s{at}"} for at, row in enumerate(source)], batch=40)
    run = Adaptation(base, same, "gain_control", rounds=1, options={"decay": 0.0, "steps": 50})
    assert isinstance(run.adapter, GainControl)
    step = next(run)
    torch.testing.assert_close(step.probabilities, run._frozen[list(run.batches[0].places)], atol=1e-5, rtol=1e-4)
    run.update()
    torch.testing.assert_close(run.adapter._following.gains, run.adapter._following.rest, atol=1e-3, rtol=1e-3)
    mean = np.array([row["input"] for row in source]).mean(0)
    for factor, sign in ((2.0, 1), (0.4, -1)):
        lines = [
            {**row, "input": (mean + factor * (np.array(row["input"]) - mean)).round(4).tolist()} for row in source
        ]
        stream = write_stream(tmp_path / str(factor), lines, batch=40)
        run = Adaptation(base, stream, "gain_control", rounds=1, options={"decay": 0.0, "steps": 50})
        assert isinstance(run.adapter, GainControl)
        next(run)
        run.update()
        assert (sign * (run.adapter._following.gains - run.adapter._following.rest) > 0).all()
        # What the model is shown afterwards spreads less, or more, than what came.
        inputs = run._batch(run.batches[0]).inputs
        shown = run.adapter.shown(inputs).whole("pixels")
        assert sign * float(inputs.whole("pixels").std(0).mean() - shown.std(0).mean()) > 0


# ---------------------------------------------------------------------- heterogeneous adaptation


def test_the_distance_of_means_by_hand() -> None:
    ours, theirs = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    apart = torch.eye(2)
    # Means 1 and 3; of the first class 0 and 1, of the second 2 and 5.
    assert float(mean_distance(ours, apart, theirs, apart)) == pytest.approx(4 + (1 + 9) / 2)
    one_sided = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(mean_distance(ours, one_sided, theirs, one_sided.flip(1))) == pytest.approx(4)
    half = torch.full((2, 2), 0.5)
    assert float(mean_distance(ours, half, theirs, half)) == pytest.approx(4 + 4)


@pytest.mark.parametrize("lent", ["real", "noise", "none"])
def test_it_waits_for_a_label_of_every_class_and_then_answers_by_its_own(base: Path, tmp_path: Path, lent: str) -> None:
    lines = [{**row, "answer": str(at % 10)} for at, row in enumerate(rows(60))]
    stream = write_stream(tmp_path / "s", lines, order="file", batch=10)
    run = Adaptation(
        base, stream, "heterogeneous", labels_late=0, rounds=1, options={"lent": lent, "shots": 2, "steps": 400}
    )
    assert isinstance(run.adapter, Heterogeneous)
    steps = []
    for step in run:
        steps.append(step)
        assert run.adapter._space.net == {} if step.number < 2 else run.adapter._space.net
    assert all(step.predicted == step.frozen for step in steps[:2])
    assert run.adapter._seen["targets"].tolist() == [*range(10), *range(10)]
    learned = run.adapter._features(run._batch(run.batches[0]).inputs)
    torch.testing.assert_close(run.adapter._seen["labelled"][:10], learned)
    # What it was told it gives back.
    answers = run.adapter.look(run._batch(run.batches[0]).inputs).argmax(-1)
    assert float((answers == torch.arange(10)).float().mean()) >= 0.8


def test_it_does_not_wait_for_ever(base: Path, tmp_path: Path) -> None:
    lines = [{**row, "answer": str(at % 3)} for at, row in enumerate(rows(40))]
    stream = write_stream(tmp_path / "s", lines, order="file")
    run = Adaptation(base, stream, "heterogeneous", labels_late=1, rounds=1, options={"wait": 2, "steps": 5})
    assert isinstance(run.adapter, Heterogeneous)
    begun = [bool(run.adapter._space.net) for _ in run]
    assert begun == [False, False, False, True, True]


# ---------------------------------------------------------------------- the sliding window


def test_a_window_learns_when_all_of_it_is_new(base: Path, tmp_path: Path) -> None:
    lines = rows(12)
    single = write_stream(tmp_path / "single", lines, order="file", batch=1)
    whole = write_stream(tmp_path / "whole", lines, order="file", batch=4)
    for name in ("tent", "roid", "rmt", "lame"):
        one, other = Adaptation(base, single, name, rounds=1, window=4), Adaptation(base, whole, name, rounds=1)
        asked = []
        for step in one:
            update = one.update()
            assert update is not None
            assert bool(update.signals.kept.any()) <= (step.number % 4 == 3)
            asked.append(step.probabilities)
        batches = [step.probabilities for step in other]
        other.update()
        for number, batch in enumerate(batches):
            # ROID's draws and RMT's source batches belong to the number of the example, so they agree at the start.
            if number == 0 or name in ("tent", "lame"):
                torch.testing.assert_close(asked[4 * number + 3], batch[-1:], atol=1e-5, rtol=1e-4)
        if name == "tent":
            for key, tensor in one.model.trainable("norm").items():
                torch.testing.assert_close(tensor, other.model.trainable("norm")[key], atol=1e-5, rtol=1e-4)


def test_a_batch_norm_sees_the_window(tmp_path: Path) -> None:
    model = write_conv_model(tmp_path / "m")
    stream = write_stream(tmp_path / "s", image_rows(8), source=False, order="file", batch=1)
    with pytest.raises(InputError, match="Add --window W"):
        Adaptation(model, stream, "tent")
    run = Adaptation(model, stream, "tent", rounds=1, window=4, options={"rate": 1e-12})
    steps = list(run)
    inputs = run._joined(run.batches[1:5]).inputs
    torch.testing.assert_close(steps[4].probabilities, run.model.probabilities(inputs)[-1:], atol=1e-4, rtol=1e-3)


def test_a_window_that_was_cut_goes_on(cli: Cli, base: Path, tmp_path: Path) -> None:
    stream = write_stream(tmp_path / "s", rows(12), order="mixed", batch=1)
    whole = torch.cat([step.probabilities for step in Adaptation(base, stream, "roid", window=4)])
    first = Adaptation(base, stream, "roid", window=4)
    begun = [next(first).probabilities for _ in range(6)]
    first.save(tmp_path / "state")
    with pytest.raises(InputError, match="window was"):
        Adaptation(base, stream, "roid", window=5).restore(tmp_path / "state")
    again = Adaptation(base, stream, "roid", window=4).restore(tmp_path / "state")
    assert torch.equal(torch.cat([*begun, *(step.probabilities for step in again)]), whole)
    typed = ["adapt", base, "--stream", stream, "--rounds", "1", "--out", tmp_path / "run"]
    assert cli(*typed, "--adapter", "roid", "--window", "4").code == 0
    told = json.loads((tmp_path / "run" / "adapt.json").read_text())
    assert told["window"] == 4


def test_a_window_is_refused_where_it_does_nothing(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    typed = ["adapt", base, "--rounds", "1", "--out", tmp_path / "run"]
    answer = cli(*typed, "--stream", stream, "--adapter", "tent", "--window", "4")
    assert (answer.code, "is for batches of one example" in answer.err) == (2, True)
    single = write_stream(tmp_path / "s", rows(8), batch=1)
    answer = cli(*typed, "--stream", single, "--adapter", "online", "--labels-late", "1", "--window", "4")
    assert (answer.code, "is for adapters that need no labels" in answer.err) == (2, True)
    assert cli(*typed, "--stream", single, "--adapter", "tent", "--window", "1").code == 2
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- domains in turn


def test_domains_end_where_their_last_batch_is(tmp_path: Path) -> None:
    stream = load_stream(write_stream(tmp_path / "s", rows(24, domains=("a", "b", "c"))))
    assert domain_ends(stream, planned(stream, "shuffled", 2, 0)) == {0: "a", 1: "b", 2: "c"}
    # Batches of 6 straddle nothing here, those of 10 do: a domain is over with the batch that holds its last example.
    assert domain_ends(stream, planned(stream, "file", 1, 0, size=6)) == {1: "a", 2: "b", 3: "c"}
    assert domain_ends(stream, planned(stream, "mixed", 1, 0)) == {}
    # Two that end within one batch cannot be told apart.
    assert domain_ends(stream, planned(stream, "file", 1, 0, size=20)) == {}
    unlabelled = [{**row, "answer": None} if row["domain"] == "b" else row for row in rows(24, domains=("a", "b"))]
    stream = load_stream(write_stream(tmp_path / "t", unlabelled))
    assert domain_ends(stream, planned(stream, "shuffled", 1, 0)) == {}
    many = load_stream(write_stream(tmp_path / "u", rows(100, domains=("a",))))
    assert len(part_of(many, "a").examples) == 25


def test_the_course_is_gems(tmp_path: Path) -> None:
    looks = {0: {"a": 0.2, "b": 0.1}, 1: {"a": 0.8, "b": 0.4}, 2: {"a": 0.5, "b": 0.9}}
    found = course_of(looks)
    assert found is not None
    assert found["average"] == pytest.approx(0.7)
    assert found["backward_transfer"] == pytest.approx(-0.3)
    assert found["forward_transfer"] == pytest.approx(0.3)
    assert found["forgetting"] == pytest.approx(0.3)
    assert course_of({0: looks[0], 1: looks[1]}) is None
    assert course_of({}) is None


def test_the_course_is_on_the_page(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--set", "rate=0.1", "--rounds", "1"]
    assert cli(*typed, "--out", tmp_path / "run").code == 0
    told = json.loads((tmp_path / "run" / "adapt.json").read_text())["course"]
    run = Adaptation(base, stream, "tent", options={"rate": 0.1}, rounds=1)
    ends = domain_ends(run.stream, run.batches)
    assert told["domains"] == list(ends.values()) == ["noise", "fog"]
    parts = [part_of(run.stream, one) for one in told["domains"]]

    def mean(part: Any) -> float:
        ours, _ = run.look(part)
        return sum(ours) / len(ours)

    assert told["before"] == [mean(part) for part in parts]
    for step in run:
        if step.number in ends:
            run.update()
            assert told["after"][list(ends).index(step.number)] == [mean(part) for part in parts]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Domains in turn" in page
    assert "backward transfer" in page
    assert cli(*typed, "--order", "mixed", "--out", tmp_path / "mixed").code == 0
    assert json.loads((tmp_path / "mixed" / "adapt.json").read_text())["course"] is None
    assert "Domains in turn" not in (tmp_path / "mixed" / "report.html").read_text()
