"""Strategies: what holds for every one of them, and how well each must search.

The convergence ranges come from runs over 20 other seeds; each bound is about twice the worst of those.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.evolution.strategies import Strategy, default_population, make_strategy, strategies, strategy_entry
from genepool.evolution.strategies.base import Evidence, StrategyOptions
from genepool.evolution.strategies.cma_es import CmaEs

NAMES = sorted(name for name, entry in strategies().items() if issubclass(entry.build, Strategy))
Fitness = Callable[[np.ndarray], np.ndarray]
# How many a generation has by default, where it is not CMA-ES's number.
POPULATIONS: dict[str, Callable[[int], int]] = {
    "differential_evolution": lambda d: 2 * default_population(d),
    "lcsc": lambda d: 20,
    "nsga2": lambda d: 40,
    "openai_es": lambda d: default_population(d) + default_population(d) % 2,
}


def evidence(xs: np.ndarray) -> Evidence:
    """Two tasks that pull in different directions, and as many examples."""
    means = np.stack([np.exp(-((xs - at) ** 2).sum(axis=1)) for at in (0.2, 0.7)], axis=1)
    return Evidence(("left", "right"), means, means)


def sphere(xs: np.ndarray) -> np.ndarray:
    return -((xs - 0.3) ** 2).sum(axis=1)


def rosenbrock(xs: np.ndarray) -> np.ndarray:
    z = 4 * xs - 2
    return -(100 * (z[:, 1:] - z[:, :-1] ** 2) ** 2 + (1 - z[:, :-1]) ** 2).sum(axis=1)


def corner(xs: np.ndarray) -> np.ndarray:
    return -xs.sum(axis=1)


def ellipsoid(xs: np.ndarray) -> np.ndarray:
    scales = 10.0 ** (3 * np.arange(xs.shape[1]) / (xs.shape[1] - 1))
    return -(scales * (xs - 0.6) ** 2).sum(axis=1)


def steps(xs: np.ndarray) -> np.ndarray:
    """Like an exact-match score over 32 examples: flat in most places."""
    return np.floor(32 * np.exp(-8 * ((xs - 0.7) ** 2).sum(axis=1))) / 32


def search(name: str, fitness: Fitness, d: int, budget: int, seed: int = 0, **options: object) -> float:
    strategy = make_strategy(name, np.full(d, 0.5), seed=seed, options=options)
    best, count = -np.inf, 0
    while count < budget:
        xs = strategy.ask()
        values = fitness(xs)
        strategy.tell(xs, values, evidence(xs))
        best, count = max(best, values.max()), count + len(xs)
    return float(best)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 12), seed=st.integers(0, 2**40), data=st.data())
def test_candidates_stay_in_the_cube_and_begin_with_the_start(
    name: str, d: int, seed: int, data: st.DataObject
) -> None:
    start = np.array(data.draw(st.lists(st.floats(0, 1), min_size=d, max_size=d)))
    strategy = make_strategy(name, start, seed=seed)
    for generation in range(4):
        xs = strategy.ask()
        if generation == 0:
            assert xs.shape == (POPULATIONS.get(name, default_population)(d), d)
        assert xs.shape[1] == d
        assert ((xs >= 0) & (xs <= 1)).all()
        if generation == 0:
            assert np.array_equal(xs[0], start)
        strategy.tell(xs, corner(xs), evidence(xs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fitness", [sphere, steps, rosenbrock])
@pytest.mark.parametrize("interrupted_after", [0, 1, 7, 40])
def test_a_replayed_search_goes_on_bit_for_bit(name: str, fitness: Fitness, interrupted_after: int) -> None:
    whole = make_strategy(name, np.full(5, 0.4), seed=3)
    record: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(60):
        xs = whole.ask()
        record.append((xs, fitness(xs)))
        whole.tell(*record[-1], evidence(xs))
    # What is on record is numbers and nothing else: it survives JSON.
    told = [json.loads(json.dumps(values.tolist())) for _, values in record]

    resumed = make_strategy(name, np.full(5, 0.4), seed=3)
    np.random.seed(99)
    for generation, (xs, _) in enumerate(record):
        asked = resumed.ask()
        assert asked.tobytes() == xs.tobytes()
        values = told[generation] if generation < interrupted_after else fitness(asked)
        resumed.tell(asked, np.array(values), evidence(asked))


@pytest.mark.parametrize("name", NAMES)
def test_no_global_randomness_is_used_or_touched(name: str) -> None:
    np.random.seed(1)
    before = np.random.get_state()
    first = search(name, steps, 3, 200)
    after = np.random.get_state()
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    np.random.seed(2)
    assert search(name, steps, 3, 200) == first


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_searches_elsewhere(name: str) -> None:
    a, b = (make_strategy(name, np.full(4, 0.5), seed=seed).ask() for seed in (0, 1))
    assert not np.array_equal(a[1:], b[1:])


@pytest.mark.parametrize("name", NAMES)
def test_tell_refuses_what_is_not_a_whole_finite_generation_and_stays_as_it_was(name: str) -> None:
    strategy = make_strategy(name, np.full(3, 0.5), seed=0)
    with pytest.raises(ValueError, match="without ask"):
        strategy.tell(np.zeros((7, 3)), np.zeros(7))
    xs = strategy.ask()
    values = sphere(xs)
    with pytest.raises(ValueError, match="whole generation"):
        strategy.tell(xs[:-1], values[:-1])
    with pytest.raises(ValueError, match="other candidates"):
        strategy.tell(xs[::-1], values)
    with pytest.raises(ValueError, match="shape"):
        strategy.tell(xs, values[:-1])
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=r"entries \[2\] are not"):
            strategy.tell(xs, np.where(np.arange(len(xs)) == 2, bad, values))
    assert np.array_equal(strategy.ask(), xs)

    untouched = make_strategy(name, np.full(3, 0.5), seed=0)
    untouched.ask()
    for each in (strategy, untouched):
        each.tell(xs, values, evidence(xs))
    assert np.array_equal(strategy.ask(), untouched.ask())


@pytest.mark.parametrize(
    ("fitness", "d", "budget", "at_least"),
    [
        (sphere, 1, 200, -3e-5),
        (sphere, 10, 1000, -1e-6),
        (ellipsoid, 10, 3000, -4e-7),
        pytest.param(rosenbrock, 6, 4000, -1e-6, marks=pytest.mark.slow),
        (corner, 8, 800, -3e-4),
        (steps, 8, 600, 30 / 32),
    ],
)
def test_cma_es_converges(fitness: Fitness, d: int, budget: int, at_least: float) -> None:
    assert min(search("cma_es", fitness, d, budget, seed=seed) for seed in range(3)) >= at_least


def test_diagonal_cma_es_converges_where_coordinates_are_separate() -> None:
    assert search("cma_es", sphere, 40, 4000, covariance="diagonal") >= -1e-6


def test_cma_es_guesses_where_noise_hides_the_best() -> None:
    strategy = make_strategy("cma_es", np.full(4, 0.5), seed=0)
    dice = np.random.default_rng(1)
    assert strategy.guess() is None
    seen: list[tuple[float, np.ndarray]] = []
    for _ in range(60):
        xs = strategy.ask()
        values = sphere(xs) + dice.normal(scale=0.02, size=len(xs))
        seen += zip(values, xs, strict=True)
        strategy.tell(xs, values)
    guess = strategy.guess()
    assert guess is not None
    luckiest = max(seen, key=lambda pair: pair[0])[1]
    assert sphere(guess[None])[0] > sphere(luckiest[None])[0]
    assert make_strategy("random_search", np.full(4, 0.5), seed=0).guess() is None


@pytest.mark.slow
def test_cma_es_leaves_a_plateau_and_a_local_optimum_by_restarting() -> None:
    def two_hills(xs: np.ndarray) -> np.ndarray:
        near, far = ((xs - 0.3) ** 2).sum(axis=1), ((xs - 0.9) ** 2).sum(axis=1)
        return np.maximum(0.5 * np.exp(-20 * near), np.exp(-100 * far))

    stuck = [search("cma_es", two_hills, 2, 2000, seed=seed, restart=False) for seed in range(5)]
    freed = [search("cma_es", two_hills, 2, 2000, seed=seed) for seed in range(5)]
    assert sum(best > 0.99 for best in stuck) <= 1
    assert sum(best > 0.99 for best in freed) >= 3
    flat = make_strategy("cma_es", np.full(3, 0.5), seed=0)
    for _ in range(40):
        xs = flat.ask()
        flat.tell(xs, np.zeros(len(xs)))
    assert len(flat.ask()) > default_population(3)


def test_random_search_is_uniform_and_worse_than_cma_es() -> None:
    strategy = make_strategy("random_search", np.full(4, 0.5), seed=0, options={"population": 4000})
    xs = strategy.ask()[1:]
    assert abs(xs.mean(axis=0) - 0.5).max() < 0.02
    assert abs(xs.var(axis=0) - 1 / 12).max() < 0.005
    assert search("random_search", sphere, 10, 1000) < search("cma_es", sphere, 10, 1000)
    assert search("random_search", sphere, 2, 1000) > -0.003


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_describes_itself(name: str) -> None:
    row = strategy_entry(name).describe()
    said = {"name", "title", "source", "when", "needs", "passes", "proposals", "steady", "parameters", "faithful"}
    assert set(row) == said
    assert row["source"]
    assert row["when"]
    for parameter in row["parameters"]:
        assert parameter["description"]
    json.dumps(row)


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_takes_the_options_of_its_own_file(name: str) -> None:
    build = strategy_entry(name).build
    # A file without options of its own takes those of the strategy it subclasses, or none.
    own = {
        one
        for one in vars(importlib.import_module(build.__module__)).values()
        if isinstance(one, type) and issubclass(one, StrategyOptions) and one.__module__ == build.__module__
    }
    assert build.Options in own or not own


def test_unknown_names_and_options_say_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'cma_es'"):
        make_strategy("cmaes", np.full(2, 0.5), seed=0)
    with pytest.raises(InputError, match="Did you mean 'sigma'"):
        make_strategy("cma_es", np.full(2, 0.5), seed=0, options={"sigm": 0.1})
    with pytest.raises(InputError, match="greater than 0"):
        make_strategy("cma_es", np.full(2, 0.5), seed=0, options={"sigma": -1.0})


def test_cma_es_ignores_a_signals_file_in_the_working_folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    expected = search("cma_es", sphere, 3, 300)
    with open("cma_signals.in", "w") as file:
        file.write("{'timeout': 0, 'tolx': 1.0}")
    assert search("cma_es", sphere, 3, 300) == expected


@pytest.mark.parametrize(
    ("name", "fitness", "d", "budget", "at_least"),
    [
        ("differential_evolution", sphere, 10, 4000, -1e-4),
        pytest.param("differential_evolution", rosenbrock, 6, 8000, -2e-2, marks=pytest.mark.slow),
        ("differential_evolution", corner, 8, 2000, -5e-2),
        ("differential_evolution", steps, 8, 1500, 28 / 32),
        ("openai_es", steps, 8, 1500, 28 / 32),
        ("lcsc", sphere, 8, 1500, -2.5e-4),
        ("lcsc", steps, 8, 1500, 28 / 32),
    ],
)
def test_the_others_converge(name: str, fitness: Fitness, d: int, budget: int, at_least: float) -> None:
    assert min(search(name, fitness, d, budget, seed=seed) for seed in range(3)) >= at_least


@pytest.mark.parametrize(
    ("d", "budget", "at_least"), [(10, 3000, -8e-3), pytest.param(200, 6000, -1.0, marks=pytest.mark.slow)]
)
def test_openai_es_climbs_with_its_mean(d: int, budget: int, at_least: float) -> None:
    # Its candidates keep their distance to the mean; what it has learned is the mean.
    for seed in range(3):
        strategy = make_strategy("openai_es", np.full(d, 0.5), seed=seed)
        for _ in range(budget // len(strategy.ask())):
            xs = strategy.ask()
            strategy.tell(xs, sphere(xs))
        guess = strategy.guess()
        assert guess is not None
        assert sphere(guess[None])[0] >= at_least


def test_quasi_random_fills_the_cube_more_evenly_than_chance() -> None:
    def emptiest(name: str) -> float:
        xs = make_strategy(name, np.full(2, 0.5), seed=0, options={"population": 256}).ask()[1:]
        counts, *_ = np.histogram2d(xs[:, 0], xs[:, 1], bins=8, range=[[0, 1], [0, 1]])
        return float(counts.var())

    assert emptiest("quasi_random") < emptiest("random_search") / 4


def test_a_flat_generation_moves_openai_es_nowhere() -> None:
    strategy = make_strategy("openai_es", np.full(3, 0.4), seed=0)
    for _ in range(3):
        xs = strategy.ask()
        strategy.tell(xs, np.ones(len(xs)))
    assert np.array_equal(strategy.guess(), np.full(3, 0.4))


def test_cma_es_guesses_where_its_best_search_ended_not_where_a_restart_began() -> None:
    strategy = make_strategy("cma_es", np.full(2, 0.5), seed=3)
    assert isinstance(strategy, CmaEs)
    while strategy.restarts < 2:
        xs = strategy.ask()
        strategy.tell(xs, -((xs - 0.3) ** 2).sum(axis=1))
        guess = strategy.guess()
    for _ in range(2):
        assert guess is not None
        assert abs(guess - 0.3).max() < 1e-3
        strategy.ask()
        guess = strategy.guess()


def test_differential_evolution_keeps_the_parent_where_the_trial_is_only_as_good() -> None:
    strategy = make_strategy("differential_evolution", np.full(3, 0.5), seed=0, options={"population": 5})
    first = strategy.ask()
    strategy.tell(first, np.ones(5))
    strategy.tell(strategy.ask(), np.ones(5))
    assert np.array_equal(strategy._members, first)
