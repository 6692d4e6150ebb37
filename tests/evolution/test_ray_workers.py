"""Workers on Ray: the same run as in one process, with actors killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import evolve_fakes as fakes
import evolve_world
import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.candidates import Verdict
from genepool.evolution.ray_workers import Home, RayPool, connect
from genepool.evolution.store import StudyStore
from genepool.evolution.study import SearchBudget
from genepool.evolution.workers import Evaluate, InProcess

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(autouse=True)
def _local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Actors find the helpers of this folder; nothing is left running."""
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    yield
    ray.shutdown()


def history(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def best(out: Path) -> dict[str, Any]:
    data = json.loads((out / "best.json").read_text())
    return {key: value for key, value in data.items() if key not in ("cost", "ledger")}


def sphere_on_ray(home: Home) -> Evaluate:
    return fakes.sphere()


def dying_on_ray(home: Home, folder: Path, times: int) -> Evaluate:
    """Kills its own process at the fourth candidate, the first `times` times."""

    def evaluate(candidate: fakes.Candidate) -> Verdict:
        if (candidate.generation, candidate.index) == (0, 3):
            fakes.log(folder, "death")
            if (folder / "log.txt").read_text().count("death") <= times:
                os.kill(os.getpid(), signal.SIGKILL)
        return Verdict(fakes.fitness_of(candidate), {"t": fakes.fitness_of(candidate)}, examples=1)

    return evaluate


def hanging_on_ray(home: Home) -> Evaluate:
    def evaluate(candidate: fakes.Candidate) -> Verdict:
        while (candidate.generation, candidate.index) == (0, 2):
            pass
        return Verdict(fakes.fitness_of(candidate))

    return evaluate


def broken_on_ray(home: Home) -> Evaluate:
    raise ValueError("no such model")


def run(folder: Path, factory: Any, **settings: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    count = connect("ray:2", 1)
    with StudyStore(folder / "study.sqlite") as store:
        pool = RayPool(factory, store.path, count, **settings)
        fakes.sitting(folder, "cma_es", SearchBudget(evaluations=24), pool, store)
    return fakes.history(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    with StudyStore(folder / "study.sqlite") as store:
        fakes.sitting(folder, "cma_es", SearchBudget(evaluations=24), InProcess(fakes.sphere, store), store)
    return fakes.history(folder)


def test_two_actors_give_what_one_process_gives(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    assert run(tmp_path / "ray", sphere_on_ray) == undisturbed


def test_a_candidate_whose_actor_died_goes_back_to_the_queue(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    assert run(tmp_path / "ray", partial(dying_on_ray, folder=tmp_path, times=2)) == undisturbed


def test_one_that_always_kills_its_actor_has_failed(tmp_path: Path) -> None:
    lines = run(tmp_path / "ray", partial(dying_on_ray, folder=tmp_path, times=99))
    assert lines[3]["fitness"] is None
    assert "its worker died 3 times" in lines[3]["error"]
    assert sum(line["fitness"] is None for line in lines) == 1


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    lines = run(tmp_path / "ray", hanging_on_ray, time_limit=2.0)
    assert [line["error"] for line in lines if line["fitness"] is None] == ["took longer than 2 s"]


def test_actors_that_cannot_be_built_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a worker failed: ValueError: no such model"):
        run(tmp_path / "ray", broken_on_ray)


@pytest.mark.parametrize("strategy", ["cma_es", "genome"])
def test_a_whole_study_on_ray_is_the_study_in_one_process(tmp_path: Path, strategy: str) -> None:
    world = evolve_world.build_world(tmp_path / "world")
    data = dict(evolve_world.STUDY)
    if strategy == "genome":
        data = {key: value for key, value in data.items() if key not in ("method", "parameters", "search")}
        data["strategy"] = {"name": "genome", "options": {"population": 4}}
    (world / "study.yaml").write_text(yaml.safe_dump({**data, "budget": {"evaluations": 12}}))
    for workers in ("1", "ray:2"):
        run_study(world / "study.yaml", tmp_path / workers, workers=workers, ledger=tmp_path / f"{workers}.sqlite")
    assert history(tmp_path / "1") == history(tmp_path / "ray:2")
    assert best(tmp_path / "1") == best(tmp_path / "ray:2")


def test_an_actor_elsewhere_sends_its_outcomes_home(tmp_path: Path) -> None:
    from genepool.evolution.ray_workers import reporting_ledger
    from genepool.tasks import Ledger
    from genepool.tasks.ledger import Outcome

    home = Home(here=False)
    with reporting_ledger(home, tmp_path / "main.sqlite") as book:
        book.record("print", "model", "task", "asked", [("key", "id", Outcome(1.0, "yes"))])
    assert not (tmp_path / "main.sqlite").exists()
    with StudyStore(tmp_path / "study.sqlite") as store:
        store.begin({}, {})
        (candidate,) = store.asked("s", 0, [b"x"], [{"a": 1.0}], 0)
    connect("ray:1", 1)
    pool = RayPool(sphere_on_ray, tmp_path / "study.sqlite", 1, ledger=tmp_path / "main.sqlite")
    assert pool.commit(candidate, Verdict(0.5), home.recorded) == Verdict(0.5)
    with Ledger(tmp_path / "main.sqlite") as book:
        assert book.find("print", "asked", ["key"])["key"].output == "yes"
    pool.close()
