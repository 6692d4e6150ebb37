"""Samplers of parameters: each does what its definition says, from examples with numbers up to the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import result_bytes, rows, told

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks.environments import episode_of
from genepool.tasks.example import Example
from genepool.training.gaussian_mixture import fitted, started
from genepool.training.gaussian_process import LENGTHS, VARIANCES, fit_process, log_likelihood
from genepool.training.journal import ExampleRow
from genepool.training.parameter_space import ParameterSpace, numbers_of
from genepool.training.risk_learner import RiskLearner
from genepool.training.samplers import Arms, make_sampler, samplers
from genepool.training.samplers.again import Again, AgainOptions, PastStudent
from genepool.training.samplers.alp_gmm import AlpGmm
from genepool.training.samplers.mbtl import Mbtl
from genepool.training.samplers.mpts import Mpts
from genepool.training.samplers.parameters import ParameterSampler

NAMES = sorted(name for name, kind in samplers().items() if issubclass(kind, ParameterSampler))


def example(number: int, **numbers: float) -> Example:
    return Example(f"e{number}", f"p{number}", (f"a{number}",), tags=tuple(f"{k}={v}" for k, v in numbers.items()))


#: Lengths 0 to 10, each twice.
LINE = [example(at, length=at % 11) for at in range(22)]
ARMS = Arms(("a", "b"), (15, 7), 0, LINE)
QUICK_GMM = {"window": 10, "largest": 2}


def student(scores: Callable[[float], float], count: int = 40, name: str = "past") -> PastStudent:
    points = np.array([[at % 11 / 10] for at in range(count)])
    return PastStudent(name, points, np.array([scores(float(point)) for (point,) in points]))


def made(name: str, **options: Any) -> ParameterSampler:
    if name == "again":
        own = AgainOptions(**{**QUICK_GMM, **options})
        return Again(own, ARMS, [student(lambda at: at)])
    given = {**QUICK_GMM, **options} if name == "alp_gmm" else {"contexts": 5, "round": 2, **options}
    found = make_sampler(name, options if name == "mpts" else given, ARMS)
    assert isinstance(found, ParameterSampler)
    return found


def seen(places: Sequence[int], losses: Sequence[float]) -> list[ExampleRow]:
    return [ExampleRow("a", LINE[place].key, loss) for place, loss in zip(places, losses, strict=True)]


# ---------------------------------------------------------------------- numbers and space


def test_numbers_are_tags_and_settings_of_environments() -> None:
    tagged = Example(
        "e", "p", ("a",), tags=("length=5", "of=-1.5e2", "hard", "x=", "=3", "y=nan", "z=1e999", "length=7")
    )
    assert numbers_of(tagged) == {"length": 7.0, "of": -150.0}
    episode = episode_of({"environment": "mountain_car", "config": {"gravity": 0.003}}, "here")
    assert numbers_of(Example("e", "", (), episode=episode)) == {"force": 0.001, "gravity": 0.003}


def test_a_space_is_every_number_that_differs_or_what_is_said() -> None:
    rows = [example(at, b=at, a=-at, same=1.0, **({"some": 1.0} if at else {})) for at in range(3)]
    space = ParameterSpace(rows, {})
    assert space.names == ("a", "b")
    assert space.points.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    wide = ParameterSpace(rows, {"b": (0.0, 4.0)})
    assert wide.points[:, 0].tolist() == [0, 0.25, 0.5]
    assert wide.cells(np.array([[0.0], [0.24], [0.26], [1.0]]), 4).tolist() == [0, 0, 1, 3]


@given(points=st.lists(st.floats(0, 1), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_places_are_nearest_examples(points: list[float], seed: int) -> None:
    space = ParameterSpace(LINE, {"length": (0.0, 10.0)})
    places = space.places(np.array(points)[:, None], np.random.default_rng(seed))
    for point, place in zip(points, places.tolist(), strict=True):
        assert abs(space.points[place, 0] - point) == pytest.approx(np.abs(space.points[:, 0] - point).min())
    # Of examples with the same point any may come.
    many = space.places(np.full((200, 1), 0.3), np.random.default_rng(seed))
    assert set(many.tolist()) == {3, 14}


@pytest.mark.parametrize(
    ("ends", "where", "what"),
    [
        ({"length": (0.0, 9.0)}, "length", "has 10, out of the range from 0 to 9"),
        ({"length": (5.0, 5.0)}, "length", "the ends of 'length' are 5 and 5"),
        ({"lenght": (0.0, 9.0)}, "lenght", "the training example e0 has no such number"),
    ],
)
def test_parameters_out_of_range_are_refused(ends: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as raised:
        ParameterSpace(LINE, ends)
    assert raised.value.where == f"sampler_options.parameters.{where}"


# ---------------------------------------------------------------------- a mixture and a process


@pytest.mark.parametrize("count", [1, 3])
def test_a_mixture_is_that_of_scikit_learn(count: int) -> None:
    from sklearn.mixture import GaussianMixture

    generator = np.random.default_rng(count)
    rows = np.concatenate([generator.normal(at, 0.3, (60, 3)) for at in range(3)])
    start = started(rows, count, generator)
    theirs = GaussianMixture(
        count, weights_init=start.weights, means_init=start.means, precisions_init=np.linalg.inv(start.covariances)
    ).fit(rows)
    ours = fitted(rows, start)
    assert np.allclose(ours.means, theirs.means_, atol=1e-6)
    assert np.allclose(ours.covariances, theirs.covariances_, atol=1e-6)
    assert ours.log_likelihood(rows) == pytest.approx(theirs.score(rows), abs=1e-6)
    assert ours.aic(rows) == pytest.approx(theirs.aic(rows), abs=1e-3)


def test_a_mixture_of_equal_rows_is_one() -> None:
    rows = np.ones((20, 2))
    found = fitted(rows, started(rows, 4, np.random.default_rng(0)))
    assert np.isfinite(found.aic(rows))
    assert np.allclose(found.weights.sum(), 1)


def test_a_process_is_that_of_scikit_learn() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    places, values = np.array([0.0, 3.0, 9.0, 14.0]), np.array([0.2, 0.9, 0.5, 0.4])
    kernel = ConstantKernel(1.0, VARIANCES) * RBF(1.0, LENGTHS)
    theirs = GaussianProcessRegressor(kernel, alpha=0.01, n_restarts_optimizer=9, random_state=0)
    theirs.fit(places[:, None], values)
    ours = fit_process(places, values, 0.1, np.random.default_rng(0))
    asked = np.linspace(-2, 20, 12)
    mean, deviation = ours.predict(asked)
    wanted = theirs.predict(asked[:, None], return_std=True)
    assert np.allclose(mean, wanted[0], atol=1e-3)
    assert np.allclose(deviation, wanted[1], atol=1e-3)
    value, slope = log_likelihood(places, values, 0.1, 0.5, 2.0)
    theirs_value, theirs_slope = theirs.log_marginal_likelihood(np.log([0.5, 2.0]), eval_gradient=True)
    assert value == pytest.approx(theirs_value)
    assert np.allclose(slope, theirs_slope)


# ---------------------------------------------------------------------- all of them


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(size=st.integers(1, 12), losses=st.lists(st.floats(0, 9), min_size=12, max_size=12), seed=st.integers(0, 9))
def test_places_are_a_function_of_what_was_observed(name: str, size: int, losses: list[float], seed: int) -> None:
    first, second = made(name), made(name)
    drawn = np.random.default_rng(seed)
    for step in range(3):
        # What is asked beside what is observed changes nothing.
        second.places(step, size)
        row = seen(drawn.integers(22, size=12).tolist(), losses)
        first.observe_rows(step, row)
        second.observe_rows(step, row)
    places = first.places(3, size)
    assert places.tolist() == second.places(3, size).tolist()
    assert places.shape == (size,)
    assert ((places >= 0) & (places < 22)).all()
    assert first.counts(3, size).tolist() == [(places < 15).sum(), (places >= 15).sum()]


def test_what_is_observed_of_an_example() -> None:
    sampler = made("alp_gmm")
    assert isinstance(sampler, AlpGmm)
    samples = [
        ExampleRow("a", LINE[3].key, 0.0, numbers={"reward": 1.0}),
        ExampleRow("a", LINE[3].key, 0.0, numbers={"reward": 0.0}),
        ExampleRow("a", LINE[4].key, 0.5),
        ExampleRow("a", LINE[5].key, math.nan),
        ExampleRow("a", "another", 0.5),
    ]
    points, values = sampler.evidence(samples)
    assert points.tolist() == [[0.4], [0.3]]
    assert values.tolist() == [math.exp(-0.5), 0.5]
    points, values = made("mpts").evidence(samples)
    assert values.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("name", ["alp_gmm", "mpts"])
def test_the_control_shuffles_what_was_observed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[np.ndarray] = []
    sampler = made(name, permuted=True)
    monkeypatch.setattr(sampler, "learn", lambda step, points, values: found.append(values))
    row = seen(range(10), [float(at) for at in range(10)])
    for step in range(3):
        sampler.observe_rows(step, row)
    plain = made(name).evidence(row)[1]
    assert all(sorted(one) == sorted(plain) for one in found)
    assert len({tuple(one) for one in [plain, *found]}) == 4


# ---------------------------------------------------------------------- ALP-GMM


def test_learning_progress_by_hand() -> None:
    sampler = made("alp_gmm")
    assert isinstance(sampler, AlpGmm)
    for at, score in [(0, 0.1), (2, 0.2), (4, 0.3), (6, 0.4), (8, 0.5), (10, 0.6), (2, 0.9), (3, 0.0), (2, 0.5)]:
        sampler.observe_one(np.array([at / 10]), score)
    # Six have none; then length 2 beside 0.2, 3 beside the latest of its two neighbours, and 2 beside 0.9.
    assert np.allclose(sampler._progress, [0] * 6 + [0.7, 0.9, 0.4])


def test_alp_gmm_goes_where_scores_move() -> None:
    sampler = make_sampler("alp_gmm", {"window": 100, "random": 0.1}, ARMS)
    drawn = np.random.default_rng(0)
    for step in range(10):
        places = sampler.places(step, 20)  # type: ignore[attr-defined]
        # Short ones are known, the longest out of reach; what lies between comes and goes.
        lengths = [int(place) % 11 for place in places]
        losses = [0.0 if at < 5 else 50.0 if at > 7 else float(drawn.choice([0.0, 3.0])) for at in lengths]
        sampler.observe_rows(step, seen(places.tolist(), losses))
    places = sampler.places(11, 400) % 11  # type: ignore[attr-defined]
    assert ((places >= 4) & (places <= 8)).mean() > 0.7


# ---------------------------------------------------------------------- MBTL


def expected(trained: list[int], scores: list[float], count: int, slope: float, weight: float) -> np.ndarray:
    process = fit_process(
        np.array(trained, dtype=float), np.array(scores), 0.1, numpy_generator(0, "sampler", "mbtl", "process", 2)
    )
    mean, deviation = process.predict(np.arange(count, dtype=float))
    best = [max([0.0, *(s - slope * abs(i - j) for i, s in zip(trained, scores, strict=True))]) for j in range(count)]
    return np.array(
        [
            np.mean([max(mean[i] + weight * deviation[i] - slope * abs(i - j) - best[j], 0) for j in range(count)])
            for i in range(count)
        ]
    )


@pytest.mark.parametrize(("exploration", "weight"), [("decay", 1 / 3), ("grow", math.sqrt(math.log(3))), ("none", 0.0)])
def test_mbtl_by_hand(exploration: str, weight: float) -> None:
    sampler = make_sampler("mbtl", {"contexts": 11, "slope": 0.05, "exploration": exploration}, ARMS)
    assert isinstance(sampler, Mbtl)
    promise = expected([5, 9], [0.9, 0.3], 11, 0.05, weight)
    promise[[5, 9]] = -1
    assert sampler.chosen(11, [5, 9], [0.9, 0.3]) == promise.argmax()
    # What is known to be reached everywhere leaves nothing to hope for: the first that was not trained.
    assert sampler.chosen(11, [5, 9], [0.9, 0.3], np.full(11, 9.0)) == 0


def test_mbtl_trains_every_context_once_and_then_again() -> None:
    sampler = made("mbtl", contexts=50, round=2)
    assert isinstance(sampler, Mbtl)
    # There are no more than eleven lengths.
    assert sampler.contexts.tolist() == [at / 10 for at in range(11)]
    steps = []
    for step in range(44):
        places = sampler.places(step, 4)
        (at,) = {int(place) % 11 for place in places}
        steps.append(at)
        sampler.observe_rows(step, seen(places.tolist(), [0.1 * at] * 4))
    assert steps[::2] == steps[1::2]
    assert steps[0] == 5
    assert sorted(steps[:22:2]) == list(range(11))
    assert steps[22:] == steps[:22]
    # A round's score is that of its last quarter, one step here.
    assert sampler.scores[0] == pytest.approx(math.exp(-0.5))


def test_the_control_of_mbtl_shuffles_contexts() -> None:
    plain, control = made("mbtl", round=1), made("mbtl", round=1, permuted=True)
    assert isinstance(plain, Mbtl)
    assert isinstance(control, Mbtl)
    control.scores = plain.scores = [0.1, 0.5, 0.9]
    assert plain._told() == [0.1, 0.5, 0.9]
    assert sorted(control._told()) == [0.1, 0.5, 0.9]
    assert control._told() != plain._told()


def test_mbtl_takes_one_parameter() -> None:
    arms = Arms(("a",), (4,), 0, [example(at, length=at, width=-at) for at in range(4)])
    with pytest.raises(InputError, match=r"mbtl goes along one parameter, and there are 2 \(length, width\)"):
        make_sampler("mbtl", {}, arms)


# ---------------------------------------------------------------------- MPTS


def test_the_loss_of_a_risk_learner_by_hand() -> None:
    torch.manual_seed(0)
    learner = RiskLearner(2, 4, 3, 5, 1e-2)
    points, risks, noise = torch.rand(6, 2), torch.rand(6), torch.randn(5, 3)
    loss, posterior = learner.loss(points, risks, noise)
    predicted = [
        torch.stack(
            [learner.decoder(torch.cat([point, posterior.loc + posterior.scale * one]))[0] for one in noise]
        ).mean()
        for point in points
    ]
    mean, deviation = posterior.loc, posterior.scale
    apart = (-torch.log(deviation) + (deviation**2 + mean**2) / 2 - 0.5).sum()
    wanted = torch.stack([(one - risk) ** 2 for one, risk in zip(predicted, risks, strict=True)]).sum() + apart
    assert loss.item() == pytest.approx(float(wanted.detach()), rel=1e-5)
    # The prior of the next step is the posterior of this one.
    learner.learn(points, risks, torch.Generator().manual_seed(0))
    assert torch.equal(learner.prior.loc, posterior.loc)
    assert not torch.equal(learner.posterior(points, risks).loc, posterior.loc)


def test_a_risk_learner_learns() -> None:
    torch.manual_seed(0)
    learner, generator = RiskLearner(1, 10, 10, 20, 1e-2), torch.Generator().manual_seed(0)
    points = torch.linspace(0, 1, 16)[:, None]
    for _ in range(150):
        learner.learn(points, 3 * points[:, 0], generator)
    mean, _ = learner.predict(points, generator)
    assert (mean - 3 * points[:, 0]).abs().mean() < 0.5


@pytest.mark.parametrize(("random", "best"), [(0.0, 4), (0.5, 2)])
def test_mpts_takes_the_candidates_of_the_highest_score(random: float, best: int, monkeypatch: Any) -> None:
    sampler = make_sampler("mpts", {"candidates": 3, "random": random}, ARMS)
    assert isinstance(sampler, Mpts)
    asked: list[np.ndarray] = []

    def scores(step: int, points: np.ndarray) -> np.ndarray:
        asked.append(points[:, 0])
        return points[:, 0]

    monkeypatch.setattr(sampler, "scores", scores)
    taken = sampler.points(5, 4)[:, 0]
    (candidates,) = asked
    assert len(candidates) == 12
    assert taken[:best].tolist() == sorted(candidates, reverse=True)[:best]
    assert set(taken) <= set(candidates)


# ---------------------------------------------------------------------- AGAIN


def test_how_a_student_began_and_ended_by_hand() -> None:
    sampler = made("again")
    assert isinstance(sampler, Again)
    points = np.array([[at / 10] for at in range(8)] + [[0.0], [0.0], [0.9]])
    scores = np.array([1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 0.25])
    # Cells of a quarter: 0, .1, .2 and twice 0; .3, .4; .5, .6, .7; the last one comes after the window of 10.
    assert np.allclose(sampler.began(points, scores), [0.6, 0.5, 0.0, scores[:10].mean()])
    assert sampler.ended(points, scores) == pytest.approx(0.6 + 0.5 + 0 + 0.25)


def test_the_best_of_those_that_began_alike_is_taken() -> None:
    alike = [student(lambda at: at, name="short", count=30), student(lambda at: at, name="better", count=40)]
    object.__setattr__(alike[1], "scores", np.concatenate([alike[1].scores[:10], np.full(30, 0.95)]))
    other = student(lambda at: 1 - at, name="other")
    object.__setattr__(other, "scores", np.concatenate([other.scores[:10], np.full(30, 2.0)]))
    chosen = {}
    for nearest in (1, 2, 3):
        sampler = Again(AgainOptions(**QUICK_GMM, nearest=nearest), ARMS, [*alike, other])
        for at in range(10):
            sampler.observe_one(np.array([at / 10]), at / 10)
        assert sampler.chosen is not None
        chosen[nearest] = sampler.chosen.name
    assert chosen == {1: "short", 2: "better", 3: "other"}
    names = set()
    for seed in range(20):
        arms = Arms(ARMS.names, ARMS.sizes, seed, LINE)
        sampler = Again(AgainOptions(**QUICK_GMM, student="any"), arms, [*alike, other])
        names.add(sampler.pick().name)
    assert names == {"short", "better", "other"}


def restless(count: int = 60) -> PastStudent:
    """Lengths above 5 come and go between 0 and 1: their progress is 1; those below stand."""
    points = np.array([[at % 11 / 10] for at in range(count)])
    turns = np.arange(count) // 11 % 2
    return PastStudent("past", points, np.where(points[:, 0] > 0.5, turns, 0.5))


def practise(sampler: Again, score: float, count: int) -> None:
    """Examples of the first Gaussian of the student that is on, or of the longest length after the last stage."""
    for _ in range(count):
        stage = sampler.current
        sampler.observe_one(np.array([1.0]) if stage is None else stage.means[0, :-1], score)


@pytest.mark.parametrize("replay", ["reward", "time", "pool"])
def test_again_goes_through_the_mixtures_of_the_student(replay: str) -> None:
    sampler = Again(AgainOptions(**QUICK_GMM, replay=replay), ARMS, [restless()])
    assert sampler.randomness == 1.0
    for at in range(10):
        sampler.observe_one(np.array([at / 10]), 0.5)
    assert sampler.randomness == 0.02
    stages = len(sampler.stages)
    assert (stages == 1) == (replay == "pool")
    assert all((one.means[:, -1] > 0.2).all() for one in sampler.stages)
    means, _ = sampler.gaussians()
    # The student's stand before the own ones, which are those of ALP-GMM.
    assert len(means) == len(sampler.stages[0].means) + len(sampler.fits[-1][1].means)
    assert (sampler.points(1, 200)[:, 0] > 0.45).mean() > 0.8
    practise(sampler, 0.0, 10)
    assert sampler.stage == (1 if replay == "time" else 0)
    practise(sampler, 1.0, 60 * stages)
    if replay == "pool":
        assert sampler.current is not None
    else:
        # After the last one ALP-GMM goes on alone.
        assert sampler.current is None
        assert np.array_equal(sampler.gaussians()[0], sampler.fits[-1][1].means)


def test_the_score_of_a_student_is_waited_for() -> None:
    sampler = Again(AgainOptions(**QUICK_GMM), ARMS, [restless()])
    for at in range(10):
        sampler.observe_one(np.array([at / 10]), 0.5)
    wanted = sampler.stages[0].score
    practise(sampler, wanted - 0.01, 100)
    assert sampler.stage == 0
    practise(sampler, wanted + 0.01, 50)
    assert sampler.stage == 1


# ---------------------------------------------------------------------- through the command


@pytest.fixture
def numbered(small_world: Path, tmp_path: Path) -> Path:
    """The task `first`, each example tagged with the place of its letter."""
    folder = tmp_path / "tasks" / "numbered"
    folder.mkdir(parents=True)
    for file in (small_world / "tasks" / "first").iterdir():
        text = file.read_text()
        if file.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines()]
            tagged = [{**line, "tags": [f"letter={ord(line['answer']) - 97}"]} for line in lines]
            text = "".join(json.dumps(line) + "\n" for line in tagged)
        (folder / file.name).write_text(text)
    return folder


SHORT = ("--steps", 8, "--every", 4, "--test", 2)
GMM = ("--set", "sampler.window=30", "--set", "sampler.largest=2")
TYPED = {
    "alp_gmm": ("--sampler", "alp_gmm", *GMM),
    "mbtl": ("--sampler", "mbtl", "--set", "sampler.contexts=4", "--set", "sampler.round=2"),
    "mpts": ("--sampler", "mpts", "--set", "sampler.parameters={letter: [0, 9]}"),
}


def with_students(train: Callable[..., Any], task: Path, out: Path) -> tuple[Any, ...]:
    """What is typed for `again`, after the training that it replays."""
    answer = train("past", *TYPED["alp_gmm"], *SHORT, tasks=[task])
    assert answer.code == 0, answer.err
    return "--sampler", "again", *GMM, "--set", f"sampler.students=[{out / 'past'}]", "--set", "sampler.least=0"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mbtl", "mpts", "again"])
def test_a_training_along_parameters_can_be_taken_again(
    cli: Callable[..., Any], train: Callable[..., Any], numbered: Path, tmp_path: Path, name: str
) -> None:
    typed = with_students(train, numbered, tmp_path) if name == "again" else TYPED[name]
    answer = train("run", *typed, *SHORT, tasks=[numbered])
    assert answer.code == 0, answer.err
    assert told(tmp_path / "run")["sampler"] == name
    curve = told(tmp_path / "run")["curriculum"]["letter"]
    assert [step for step, _ in curve] == list(range(1, 9))
    assert all(0 <= mean <= 7 for _, mean in curve)
    assert "<h3>Drawn: letter</h3>" in (tmp_path / "run" / "report.html").read_text()
    assert cli("verify-run", tmp_path / "run", "--step", 7).code == 0
    if name == "mbtl":
        keys = rows(tmp_path / "run", "SELECT step, example FROM examples ORDER BY step, place")
        letters = {json.loads(line)["prompt"]: line for line in (numbered / "train.jsonl").read_text().splitlines()}
        by_key = {
            Example("", prompt, (json.loads(line)["answer"],)).key: json.loads(line)["tags"]
            for prompt, line in letters.items()
        }
        steps = [{tuple(by_key[key]) for at, key in keys if at == step} for step in range(1, 9)]
        # One context at a time, four in all.
        assert all(len(one) == 1 for one in steps)
        assert len({tag for one in steps for tag in one}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    train: Callable[..., Any], numbered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from genepool.training.run import Run

    typed = with_students(train, numbered, tmp_path) if name == "again" else TYPED[name]
    typed = (*typed, "--steps", 10, "--every", 4, "--test", 2)
    assert train("whole", *typed, tasks=[numbered]).code == 0
    after = Run._after

    def stopped(self: Run, step: Any, *others: Any) -> bool:
        if step.number == 7:
            raise KeyboardInterrupt
        return bool(after(self, step, *others))

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_after", stopped)
        assert train("parts", *typed, tasks=[numbered]).code == 130
    assert train("parts", *typed, tasks=[numbered]).code == 0
    assert result_bytes(tmp_path / "parts") == result_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_rewards_of_samples_are_observed(
    cli: Callable[..., Any], half_known: str, numbered: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = cli(
        "train", numbered, "--base", half_known, "--objective", "grpo", "--sampler", "alp_gmm", "--set",
        "sampler.window=16", "--set", "sampler.largest=2", "--set", "samples=4", "--set", "iterations=2", "--steps", 8,
        "--every", 4, "--batch", 8, "--lora", 2, "--test", 2, "--quiet", "--out", run,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert cli("verify-run", run, "--step", 6).code == 0
    query = "SELECT group_concat(example) FROM examples GROUP BY step ORDER BY step"
    shared = [one for (one,) in rows(run, query)]
    assert shared[::2] == shared[1::2]


@pytest.mark.slow
def test_other_numbers_are_another_training(train: Callable[..., Any], numbered: Path, tmp_path: Path) -> None:
    typed = ("--sampler", "mpts", *SHORT)
    assert train("run", *typed, tasks=[numbered]).code == 0
    file = numbered / "train.jsonl"
    # No model sees tags, so the examples are the same.
    file.write_text(file.read_text().replace("letter=1", "letter=2"))
    answer = train("run", *typed, "--steps", 9, tasks=[numbered])
    assert answer.code == 2
    assert "sampler_known" in answer.err


@pytest.mark.slow
def test_other_students_are_another_training(train: Callable[..., Any], numbered: Path, tmp_path: Path) -> None:
    typed = with_students(train, numbered, tmp_path)
    assert train("run", *typed, *SHORT, tasks=[numbered]).code == 0
    # A folder that was moved is the same one; one that saw something else is not.
    (tmp_path / "past").rename(tmp_path / "moved")
    moved = [str(one).replace("past", "moved") for one in typed]
    assert train("run", *moved, *SHORT, tasks=[numbered]).code == 0
    assert train("past", *TYPED["alp_gmm"], *SHORT, "--seed", 1, tasks=[numbered]).code == 0
    answer = train("run", *typed, "--steps", 9, "--every", 4, "--test", 2, tasks=[numbered])
    assert answer.code == 2
    assert "sampler_known" in answer.err
    # Replacing the student would remove what it is made from.
    answer = train("past", *typed, *SHORT, "--overwrite", tasks=[numbered])
    assert answer.code == 2
    assert "is one of the inputs" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["alp_gmm", "parameters={letter: [0, 3]}"], "--set sampler.parameters.letter: the training example "),
        (["alp_gmm", "parameters={word: [0, 3]}"], "--set sampler.parameters.word: the training example "),
        (["alp_gmm", "smallest=5", "largest=3"], "--sampler: `smallest` is 5, above `largest`, 3"),
        (["alp_gmm", "window=nan"], "--set sampler.window: "),
        (["mpts", "rate=2"], "--set sampler.rate: input should be less than or equal to 1"),
        (["again"], "--set sampler.students: again replays what an earlier training learned from"),
        (["again", "students=[nowhere]"], "--set sampler.students: nowhere holds no training"),
        (["mbtl", "contexts=1"], "--set sampler.contexts: input should be greater"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    train: Callable[..., Any], numbered: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    name, *settings = options
    typed = [part for one in settings for part in ("--set", f"sampler.{one}")]
    answer = train("run", "--sampler", name, *typed, tasks=[numbered])
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "run").exists()


def test_examples_without_numbers_and_objectives_without_scores_are_refused(
    cli: Callable[..., Any], train: Callable[..., Any], numbered: Path, small_world: Path, tmp_path: Path
) -> None:
    answer = train("run", "--sampler", "alp_gmm")
    assert answer.code == 2
    assert "error: --set sampler.parameters: no number that all training examples have" in answer.err
    answer = train("run", "--sampler", "alp_gmm", "--objective", "dpo", tasks=[small_world / "pairs" / "first"])
    assert answer.code == 2
    assert "observes losses of answers or rewards of samples, and the objective dpo has neither" in answer.err
    file = tmp_path / "training.yaml"
    file.write_text(
        f"train: 1\nbase: {small_world / 'base'}\ntasks: [{numbered}]\nsampler: alp_gmm\n"
        "sampler_options: {parameters: {letter: [0, 3]}}\n"
    )
    answer = cli("train", file, "--out", tmp_path / "run")
    assert answer.code == 2
    assert f"{file}:sampler_options.parameters.letter: the training example " in answer.err
