"""PETSA, CAMEL and refitting are held to their definitions: the formula is written a second time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_series import HORIZON, VARIABLES, series_rows, write_series

from genepool.adaptation import Adaptation
from genepool.adaptation.adapters.camel import Camel
from genepool.adaptation.adapters.maml import Maml
from genepool.adaptation.adapters.petsa import Petsa, PetsaOptions, apart_in_shape, correlation, petsa_loss
from genepool.adaptation.remembered import Remembered
from genepool.adaptation.system_nets import (
    A_SYSTEM,
    AffineSystems,
    MetaLearned,
    fitted_weights,
    fresh_net,
    systems_of,
    through,
)
from genepool.errors import InputError
from genepool.seeding import torch_generator


def _loss(forecast: np.ndarray, truth: np.ndarray) -> float:
    """PETSA's loss in numpy, part by part."""
    apart = np.abs(forecast - truth)
    huber = np.where(apart <= 0.5, 0.5 * apart**2, 0.5 * (apart - 0.25)).mean()
    frequency = np.abs(np.fft.rfft(forecast, axis=1) - np.fft.rfft(truth, axis=1)).mean()
    r = np.corrcoef(forecast.ravel(), truth.ravel())[0, 1]
    q_f, q_y = (
        np.exp(one - one.mean(1, keepdims=True)) / np.exp(one - one.mean(1, keepdims=True)).sum(1, keepdims=True)
        for one in (forecast, truth)
    )
    kl = (q_y * np.log(q_y / q_f)).sum(1).mean()
    means = np.abs(forecast.mean(1) - truth.mean(1)).mean()
    return float(huber + 0.1 * frequency + (1 - r) + kl + means)


def test_petsas_loss_is_the_sum_of_its_parts() -> None:
    draw = np.random.default_rng(0)
    forecast, truth = draw.normal(size=(3, 5, 2)), draw.normal(size=(3, 5, 2))
    ours, theirs = torch.tensor(forecast), torch.tensor(truth)
    assert float(petsa_loss(ours, theirs, PetsaOptions())) == pytest.approx(_loss(forecast, truth))
    bare = petsa_loss(ours, theirs, PetsaOptions(structure=0, frequency=0))
    assert float(bare) == pytest.approx(float(torch.nn.functional.huber_loss(ours, theirs, delta=0.5)))
    assert float(petsa_loss(theirs, theirs, PetsaOptions())) == pytest.approx(0, abs=1e-9)
    # What is flat correlates with nothing, and is no NaN.
    flat = torch.ones(1, 5, 1, requires_grad=True)
    assert float(correlation(flat, torch.randn(1, 5, 1))) == 0
    assert float(apart_in_shape(flat, flat)) == 0
    petsa_loss(flat, torch.randn(1, 5, 1), PetsaOptions()).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_petsa_changes_nothing_at_first_and_then_follows_its_loss(forecaster: Path, series: Path) -> None:
    run = Adaptation(forecaster, series, "petsa", options={"rate": 0.01, "rank": 3})
    adapter = run.adapter
    assert isinstance(adapter, Petsa)
    own = {name: one.detach().clone().requires_grad_(True) for name, one in adapter._added.items()}
    network = run._frozen_model.network
    values = torch.tensor([row["input"] for row in series_rows()])
    optimiser = torch.optim.Adam(list(own.values()), lr=0.01)

    def calibrated(side: str, x: torch.Tensor) -> torch.Tensor:
        weight = torch.einsum("ik,kov->iov", own[f"{side} A"], own[f"{side} B"])
        found = [
            torch.tanh(own[f"{side} gate"][v] * x[:, :, v]) @ weight[:, :, v] + own[f"{side} bias"][:, v]
            for v in range(VARIABLES)
        ]
        return x + torch.stack(found, -1)

    def forecast(starts: list[int]) -> torch.Tensor:
        past = torch.stack([values[at : at + 8] for at in starts])
        return calibrated("output", network(calibrated("input", past)))

    def follow(starts: list[int], steps: int) -> None:
        truth = torch.stack([values[at + 8 : at + 8 + steps] for at in starts])
        optimiser.zero_grad()
        petsa_loss(forecast(starts)[:, :steps], truth, PetsaOptions()).backward()
        optimiser.step()

    for number in range(5):
        step = next(run)
        starts = [3 * number, 3 * number + 1, 3 * number + 2]
        if number == 0:
            assert step.predicted == step.frozen
        torch.testing.assert_close(step.probabilities, forecast(starts).detach(), atol=1e-5, rtol=1e-4)
        issued = step.probabilities
        update = run.update()
        assert update is not None
        # Four steps of the last window of a batch have come once two more batches are in.
        if number >= 2:
            follow([at - 6 for at in starts], HORIZON)
        # The later windows of a batch have shown two steps of what follows its first.
        follow(starts[:1], 2)
        again = forecast(starts).detach()
        for row, come in enumerate((2, 1, 0)):
            again[row, :come] = issued[row, :come]
        assert update.signals.late is not None
        torch.testing.assert_close(update.signals.late, again, atol=1e-5, rtol=1e-4)
    for name, one in own.items():
        torch.testing.assert_close(adapter._added[name].detach(), one.detach(), atol=1e-5, rtol=1e-3)


def test_petsa_with_rank_0_learns_biases_alone(forecaster: Path, series: Path) -> None:
    run = Adaptation(forecaster, series, "petsa", options={"rank": 0, "partial": False, "rate": 0.1})
    assert isinstance(run.adapter, Petsa)
    assert set(run.adapter._added) == {"input bias", "output bias"}
    steps = list(run)
    assert steps[0].predicted == steps[0].frozen
    assert steps[-1].predicted != steps[-1].frozen
    # The start of A is drawn evenly, as far as the rank says.
    wide = Adaptation(forecaster, series, "petsa", options={"rank": 16}).adapter
    assert isinstance(wide, Petsa)
    drawn = wide._added["input A"]
    assert float(drawn.abs().max().detach()) <= 0.25
    assert float(drawn.std().detach()) == pytest.approx(0.25 / math.sqrt(3), rel=0.2)


def test_camels_weights_are_those_of_least_squares() -> None:
    draw = np.random.default_rng(0)
    varying, left = draw.normal(size=(5, 3, 4)), draw.normal(size=(5, 4))
    rows = varying.transpose(0, 2, 1).reshape(-1, 3)
    wanted, *_ = np.linalg.lstsq(rows, left.ravel(), rcond=None)
    found = fitted_weights(torch.tensor(varying), torch.tensor(left), 1e-9)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
    ridge = np.linalg.solve(rows.T @ rows + 2 * np.eye(3), rows.T @ left.ravel())
    np.testing.assert_allclose(fitted_weights(torch.tensor(varying), torch.tensor(left), 2.0).numpy(), ridge)


def test_systems_are_domains_or_parts() -> None:
    assert systems_of(["a", "a", "b", "a"], 8, "m") == [0, 0, 1, 0]
    assert systems_of([""] * 6, 3, "m") == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match="has 2 windows, expected 3 or more"):
        systems_of([""] * 2, 3, "m")


def test_camel_knows_a_new_system_by_a_few_numbers(forecaster: Path, tmp_path: Path) -> None:
    """Source systems whose seasons are of several strengths; the stream has another strength."""

    def season(strength: float, count: int, domain: str) -> list[dict[str, object]]:
        values = strength * np.sin(2 * np.pi * np.arange(count) / 6)
        return [{"id": f"{domain}{at}", "input": [float(one)], "domain": domain} for at, one in enumerate(values)]

    folder = write_series(tmp_path / "s", season(3.0, 80, "new"), source=False)
    source = [line for strength in (0.5, 1.0, 2.0) for line in season(strength, 30, f"x{strength}")]
    import json

    (folder / "source.jsonl").write_text("".join(json.dumps(line) + "\n" for line in source))
    run = Adaptation(forecaster, folder, "camel", options={"steps": 300, "factors": 2})
    assert isinstance(run.adapter, Camel)
    assert run.adapter._known.shape == (3, 2)
    start = run.adapter._weights.clone()
    steps = list(run)
    assert not torch.equal(run.adapter._weights, start)
    early, late = (sum(sum(step.errors(step.predicted)) for step in part) for part in (steps[:5], steps[-5:]))
    frozen = sum(sum(step.errors(step.frozen)) for step in steps[-5:])
    assert late < 0.5 * early
    assert late < 0.5 * frozen


def _systems(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    """Systems y = a x0 + b sin(3 x1): 40 rows of each, with the a and b of each."""
    draw = np.random.default_rng(seed)
    given, known = draw.uniform(-1, 1, size=(count, 40, 2)), draw.uniform(0.5, 2, size=(count, 2))
    out = known[:, :1] * given[..., 0] + known[:, 1:] * np.sin(3 * given[..., 1])
    numbers = torch.arange(count).repeat_interleave(40)
    return torch.tensor(given).float().flatten(0, 1), torch.tensor(out).float().reshape(-1, 1), numbers, known


@pytest.mark.slow
def test_affine_systems_are_told_by_their_weights() -> None:
    """The weights of systems that were never seen say what their parameters are, and a few rows are enough."""
    model = AffineSystems(2, 32, 0)
    inputs, targets, systems, known = _systems(6, 0)
    model.train(inputs, targets, systems, 1500, 5e-3)
    others, wanted, numbers, theirs = _systems(8, 1)
    weights = [model.weights(others[numbers == at][:10], wanted[numbers == at][:10], 1e-7) for at in range(8)]
    errors = [
        float((model.predict(others[numbers == at], w) - wanted[numbers == at]).square().mean())
        for at, w in enumerate(weights)
    ]
    assert max(errors) < 0.02
    with_one = np.hstack([model.known.numpy(), np.ones((6, 1))])
    solved, *_ = np.linalg.lstsq(with_one, known, rcond=None)
    found = np.hstack([torch.stack(weights).numpy(), np.ones((8, 1))]) @ solved
    assert np.abs(found - theirs).max() < 0.3


def test_a_step_of_maml_has_second_derivatives() -> None:
    """One step of the training, by a network of torch's own and a gradient through the gradient."""
    inputs, targets, systems, _ = _systems(3, 2)
    model = MetaLearned(5, 0.1, 4)
    model.train(inputs, targets, systems, 1, 1e-3, 2)
    begun = fresh_net(2, 5, 1, "maml", 4, torch.device("cpu"))
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    names = {"0.weight": "first", "0.bias": "first bias", "2.weight": "second", "2.bias": "second bias"}
    start = {own: begun[name].clone().requires_grad_(True) for own, name in names.items()}
    generator = torch_generator(4, "maml", 0)
    drawn = [[40 * at + torch.randint(0, 40, (A_SYSTEM,), generator=generator) for at in range(3)] for _ in range(2)]
    total = torch.zeros(())
    for shown, asked in zip(*drawn, strict=True):
        now = dict(start)
        for _ in range(2):
            loss = (torch.func.functional_call(net, now, (inputs[shown],)) - targets[shown]).square().mean()
            slopes = torch.autograd.grad(loss, list(now.values()), create_graph=True)
            now = {name: one - 0.1 * slope for (name, one), slope in zip(now.items(), slopes, strict=True)}
        total = total + (torch.func.functional_call(net, now, (inputs[asked],)) - targets[asked]).square().mean() / 3
    for (own, one), slope in zip(start.items(), torch.autograd.grad(total, list(start.values())), strict=True):
        # The first step of Adam goes along the sign of the gradient.
        wanted = one - 1e-3 * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(model.start[names[own]], wanted.detach(), atol=1e-6, rtol=1e-5)
    followed = model.adapted(inputs[:10], targets[:10], 3)
    now = {own: model.start[name].clone() for own, name in names.items()}
    for _ in range(3):
        now = {name: one.detach().requires_grad_(True) for name, one in now.items()}
        loss = (torch.func.functional_call(net, now, (inputs[:10],)) - targets[:10]).square().mean()
        loss.backward()
        now = {name: one.detach() - 0.1 * one.grad for name, one in now.items() if one.grad is not None}
    for own, name in names.items():
        torch.testing.assert_close(followed[name], now[own])
    torch.testing.assert_close(through(followed, inputs), torch.func.functional_call(net, now, (inputs,)))


def test_maml_follows_the_system_of_the_stream(forecaster: Path, series: Path) -> None:
    run = Adaptation(forecaster, series, "maml", options={"steps": 50, "step": 0.1, "windows": 6})
    adapter = run.adapter
    assert isinstance(adapter, Maml)
    steps = [next(run) for _ in range(5)]
    run.update()
    past: Remembered = adapter._past
    left = past.truth - run._frozen_model.network(past.past).detach()
    wanted = adapter._start.adapted((past.past - past.past[:, -1:]).flatten(1), left.flatten(1), 10)
    for name, one in wanted.items():
        torch.testing.assert_close(adapter._net[name], one)
    # Before anything is known it forecasts as the source taught it.
    inputs = run._batch(run.batches[0]).inputs
    windows = inputs.whole("series")
    taught = through(adapter._start.start, (windows - windows[:, -1:]).flatten(1)).view(-1, HORIZON, VARIABLES)
    frozen = run._frozen_model.network(windows).detach()
    torch.testing.assert_close(steps[0].probabilities, frozen + taught, atol=1e-5, rtol=1e-4)


def test_what_is_remembered_is_the_last(forecaster: Path, series: Path) -> None:
    run = Adaptation(forecaster, series, "refit", options={"windows": 4, "steps": 1})
    list(run)
    past: Remembered = run.adapter._past  # type: ignore[attr-defined]
    values = torch.tensor([row["input"] for row in series_rows()])
    # The last batch whose truth was known whole began so many windows before the end.
    whole = max(one.number for one in run.batches if run.stream.examples[one.places[-1]].end + HORIZON <= 43)
    last = run.batches[whole].places[-1]
    assert len(past) == 4
    torch.testing.assert_close(past.past[-1], values[last : last + 8])
    torch.testing.assert_close(past.truth[-1], values[last + 8 : last + 12])


def test_refitting_begins_at_the_source(forecaster: Path, series: Path) -> None:
    run = Adaptation(forecaster, series, "refit", options={"windows": 3, "steps": 2, "rate": 0.01})
    for _ in range(6):
        next(run)
    run.update()
    twin = run._frozen_model.copy()
    parameters = [one.requires_grad_(True) for one in twin.network.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.01)
    past: Remembered = run.adapter._past  # type: ignore[attr-defined]
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(twin.network(past.past), past.truth).backward()
        optimiser.step()
    for one, wanted in zip(run.model.network.parameters(), parameters, strict=True):
        torch.testing.assert_close(one.detach(), wanted.detach(), atol=1e-6, rtol=1e-5)
