"""The surrogate: what it predicts, when it is believed, and studies in which it spares the hopeless."""

from __future__ import annotations

from pathlib import Path

import evolve_fakes as fakes
import numpy as np
import pytest

from genepool.evolution.generation import Savings
from genepool.evolution.loop import Search
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import make_strategy
from genepool.evolution.study import Screening, SearchBudget, Study
from genepool.evolution.surrogate import Surrogate
from genepool.evolution.workers import InProcess

GENES = ("g0", "g1", "g2")


def taught(count: int, seed: int = 0) -> tuple[Surrogate, np.random.Generator]:
    generator = np.random.default_rng(seed)
    surrogate = Surrogate(0.3)
    for point in generator.uniform(size=(count, 3)):
        surrogate.learn(dict(zip(GENES, point, strict=True)), means(point))
    return surrogate, generator


def means(point: np.ndarray) -> dict[str, float]:
    return {"t": float(np.exp(-((point - 0.7) ** 2).sum())), "u": float(point.mean())}


def test_a_smooth_landscape_is_predicted_task_by_task() -> None:
    surrogate, generator = taught(60)
    points = generator.uniform(size=(50, 3))
    told = surrogate.predict([dict(zip(GENES, point, strict=True)) for point in points])
    for task in ("t", "u"):
        actual = [means(point)[task] for point in points]
        assert np.corrcoef([one[task] for one in told], actual)[0, 1] > 0.95
        assert all(0 <= one[task] <= 1 for one in told)


def test_too_little_is_no_ground_for_a_guess() -> None:
    assert Surrogate(0.3).predict([{"g0": 0.5}]) == []
    assert taught(7)[0].predict([dict.fromkeys(GENES, 0.5)]) == []
    flat = Surrogate(0.3)
    for _ in range(30):
        flat.learn(dict.fromkeys(GENES, 0.5), {"t": 0.5})
    assert flat.predict([dict.fromkeys(GENES, 0.5)]) == []
    line = Surrogate(0.3)
    for i in range(30):
        line.learn({"g0": i / 30, "g1": i / 30, "g2": 0.5}, {"t": i / 30})
    # On a line in three dimensions no plane is determined; a guess is a number or there is none.
    assert all(np.isfinite(one["t"]) for one in line.predict([dict.fromkeys(GENES, 0.5)]))


def test_it_is_believed_while_its_order_agrees() -> None:
    surrogate = Surrogate(0.3)
    for i in range(9):
        surrogate.came_out(i, i)
    assert not surrogate.trusted
    surrogate.came_out(9, 9)
    assert surrogate.trusted
    for i in range(20):
        surrogate.came_out(i, -i)
    assert not surrogate.trusted
    for _ in range(20):
        surrogate.came_out(0.5, 0.5)
    assert not surrogate.trusted


def search(folder: Path, screen: Screening | None, budgets: tuple[int, ...]) -> list[dict[str, object]]:
    folder.mkdir()
    for budget in budgets:
        with StudyStore(folder / "study.sqlite") as store:
            store.begin({"screen": screen is not None}, {})
            Search(
                store,
                make_strategy("cma_es", np.full(3, 0.3), seed=3),
                "cma_es",
                fakes.Line(3),
                InProcess(fakes.sphere, store),
                budget=SearchBudget(evaluations=budget),
                seed=0,
                history=folder / "history.jsonl",
                savings=Savings(examples=1, screen=screen),
            ).run()
    return fakes.history(folder)


@pytest.mark.slow
def test_the_hopeless_are_spared_and_the_search_gets_as_far(tmp_path: Path) -> None:
    plain = search(tmp_path / "plain", None, (210,))
    spared = search(tmp_path / "spared", Screening(), (210,))
    asked = [line for line in spared if "note" not in line]
    assert len(asked) < 0.75 * len(plain)
    assert {line["note"] for line in spared if "note" in line} == {"told by the surrogate, not evaluated"}
    assert max(line["fitness"] for line in asked) >= max(line["fitness"] for line in plain) - 1 / 64
    # Gone on with after whole generations of seven, it believes and spares the same.
    assert search(tmp_path / "steps", Screening(), (28, 98, 105, 210)) == spared


def test_what_a_surrogate_cannot_tell_is_refused() -> None:
    common = {"base": "b", "skills": ["x", "y"], "tasks": "t", "budget": {"evaluations": 9}, "screen": True}
    merging = {"method": "linear", "search": {"weight": {"low": 0, "high": 1}}}
    for strategy, more in (("genome", {}), ("map_elites", merging), ("nsga2", merging)):
        with pytest.raises(ValueError, match=f"{strategy} needs more. Leave `screen` out"):
            Study(**common, **more, strategy=strategy)
    with pytest.raises(ValueError, match="Leave them out, or leave out `steady`"):
        Study(**common, **merging, strategy="random_search", steady=True)
    assert Study(**common, **merging).screen == Screening()
    assert Study(**{**common, "screen": False}, **merging).screen is None
