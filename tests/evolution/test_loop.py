"""The loop: budgets, failures, worker death, and a driver killed again and again at random moments."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import evolve_fakes as fakes
import pytest

from genepool.errors import InputError
from genepool.evolution.loop import Finalist
from genepool.evolution.store import StudyStore
from genepool.evolution.study import SearchBudget
from genepool.evolution.workers import Factory, InProcess, ProcessPool

SCRIPT = Path(fakes.__file__)


def run(
    folder: Path,
    factory: Factory = fakes.sphere,
    budget: int = 40,
    strategy: str = "cma_es",
    workers: int = 1,
    finalists: int = 0,
) -> list[Finalist]:
    folder.mkdir(parents=True, exist_ok=True)
    with StudyStore(folder / "study.sqlite") as store:
        who = InProcess(factory, store) if workers == 1 else ProcessPool(factory, store.path, workers)
        return fakes.sitting(folder, strategy, SearchBudget(evaluations=budget), who, store, finalists)


def same(ours: list[Finalist], theirs: list[Finalist]) -> bool:
    return [(f.candidate, f.judged.fitness) for f in ours] == [(f.candidate, f.judged.fitness) for f in theirs]


@pytest.mark.parametrize("strategy", ["cma_es", "random_search"])
@pytest.mark.parametrize("budget", [1, 7, 8, 43])
def test_the_budget_is_spent_exactly(tmp_path: Path, strategy: str, budget: int) -> None:
    (winner,) = run(tmp_path, budget=budget, strategy=strategy)
    lines = fakes.history(tmp_path)
    assert len(lines) == budget
    assert [(line["generation"], line["index"]) for line in lines] == [divmod(i, 8) for i in range(budget)]
    assert len({line["id"] for line in lines}) == budget
    assert winner.judged.fitness == max(line["fitness"] for line in lines)


def test_a_larger_budget_goes_on_as_if_it_had_been_named_at_once(tmp_path: Path) -> None:
    for budget in (3, 3, 13):
        run(tmp_path / "steps", budget=budget, finalists=3)
    steps = run(tmp_path / "steps", budget=50, finalists=3)
    assert same(steps, run(tmp_path / "once", budget=50, finalists=3))
    assert fakes.history(tmp_path / "steps") == fakes.history(tmp_path / "once")


def test_minutes_end_a_run_and_the_rest_is_still_there_to_do(tmp_path: Path) -> None:
    folder = tmp_path
    ticks = iter(range(0, 10**6, 10))

    def clocked(budget: SearchBudget) -> fakes.Search:
        with StudyStore(folder / "study.sqlite") as store:
            store.begin({}, {})
            search = fakes.Search(
                store,
                fakes.make_strategy("cma_es", fakes.np.full(4, 0.5), seed=5),
                "cma_es",
                fakes.Line(4),
                InProcess(fakes.sphere, store),
                budget=budget,
                seed=0,
                history=folder / "history.jsonl",
                clock=lambda: float(next(ticks)),
            )
            search.run()
            return search

    assert clocked(SearchBudget(minutes=5)).out_of_time
    first = fakes.history(folder)
    assert 0 < len(first) < 40
    assert clocked(SearchBudget(minutes=5)).out_of_time
    assert fakes.history(folder) == first
    assert not clocked(SearchBudget(evaluations=40)).out_of_time
    again = fakes.history(folder)
    assert len(again) == 40
    assert again[: len(first)] == first


def test_finalists_are_the_best_and_the_strategys_guess_judged_anew(tmp_path: Path) -> None:
    final = run(tmp_path / "cma", fakes.noisy, budget=64, finalists=4)
    lines = fakes.history(tmp_path / "cma")
    assert [f.judged.fitness for f in final] == sorted((f.judged.fitness for f in final), reverse=True)
    guesses = [f for f in final if f.searched is None]
    assert [(f.candidate.generation, f.candidate.index) for f in guesses] == [(8, -1)]
    top = sorted((line["fitness"] for line in lines), reverse=True)[:4]
    assert sorted((f.searched.fitness for f in final if f.searched), reverse=True) == top
    for finalist in final:
        assert finalist.judged.fitness == fakes.fitness_of(finalist.candidate)
    assert len(run(tmp_path / "random", fakes.noisy, budget=64, finalists=4, strategy="random_search")) == 4
    assert len(run(tmp_path / "few", budget=2, finalists=4)) == 2
    # The same point is one finalist, however often it was asked for.
    lines = fakes.history(tmp_path / "few")
    assert lines[0]["genome"] != lines[1]["genome"]


def test_failures_are_results_and_do_not_stop_the_search(tmp_path: Path) -> None:
    run(tmp_path, partial(fakes.failing, 3), budget=40)
    lines = fakes.history(tmp_path)
    for line in lines:
        failed = line["index"] % 3 == 0
        assert (line["fitness"] is None) == failed
        assert line.get("error") == (f"RuntimeError: no answer for {line['index']}" if failed else None)
    run(tmp_path, partial(fakes.failing, 10**9), budget=48)
    assert fakes.history(tmp_path)[:40] == lines


def test_a_run_in_which_most_candidates_fail_stops_and_says_why(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=r"8 of 8 candidates failed.*no answer for 7"):
            run(tmp_path, partial(fakes.failing, 1), budget=40)
    assert len(fakes.history(tmp_path)) == 8


def test_a_full_disk_is_nobodys_verdict(tmp_path: Path) -> None:
    def full() -> fakes.Evaluate:
        def evaluate(candidate: fakes.Candidate) -> fakes.Verdict:
            try:
                raise sqlite3.OperationalError("database or disk is full")
            except sqlite3.Error as error:
                raise InputError("no space left", where="ledger") from error

        return evaluate

    with pytest.raises(InputError, match="no space left"):
        run(tmp_path, full)
    assert fakes.history(tmp_path) == []
    run(tmp_path, budget=8)
    assert len(fakes.history(tmp_path)) == 8


def test_ctrl_c_leaves_everything_to_go_on_with(tmp_path: Path) -> None:
    def interrupted() -> fakes.Evaluate:
        def evaluate(candidate: fakes.Candidate) -> fakes.Verdict:
            if (candidate.generation, candidate.index) == (2, 3):
                raise KeyboardInterrupt
            return fakes.Verdict(fakes.fitness_of(candidate), {"t": fakes.fitness_of(candidate)})

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", interrupted)
    assert len(fakes.history(tmp_path / "stopped")) == 19
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    assert fakes.history(tmp_path / "stopped") == fakes.history(tmp_path / "whole")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for workers in (1, 3):
        run(tmp_path / str(workers), workers=workers)
    assert fakes.history(tmp_path / "1") == fakes.history(tmp_path / "3")


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_candidate_whose_worker_died_goes_back_to_the_queue(tmp_path: Path, times: int) -> None:
    run(tmp_path / "died", partial(fakes.dying, tmp_path / "died", 3, times), budget=20, workers=2)
    run(tmp_path / "whole", budget=20)
    died = [{**line, "valid": {"t": line["fitness"]}} for line in fakes.history(tmp_path / "died")]
    assert died == fakes.history(tmp_path / "whole")
    assert (tmp_path / "died" / "log.txt").read_text().count("death") == times + 1


@pytest.mark.slow
def test_a_candidate_that_kills_every_worker_has_failed(tmp_path: Path) -> None:
    run(tmp_path, partial(fakes.dying, tmp_path, 3, 99), budget=20, workers=2)
    failed = [line for line in fakes.history(tmp_path) if line["fitness"] is None]
    assert [(line["generation"], line["index"]) for line in failed] == [(0, 3)]
    assert "died 3 times (killed by SIGKILL" in failed[0]["error"]
    assert (tmp_path / "log.txt").read_text().count("death") == 3


@pytest.mark.slow
def test_workers_that_cannot_start_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"die while starting \(exit code 7\)"):
        run(tmp_path, fakes.stillborn, workers=2)
    with pytest.raises(InputError, match="ValueError: no such model"):
        run(tmp_path, fakes.misbuilt, workers=2)


@pytest.mark.slow
def test_ctrl_c_is_the_drivers_alone_even_while_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_CTRL_C", "1")
    run(tmp_path / "signalled", budget=16, workers=2)
    assert "Traceback" not in capfd.readouterr().err
    run(tmp_path / "whole", budget=16)
    assert fakes.history(tmp_path / "signalled") == fakes.history(tmp_path / "whole")


# -- kill -9 ------------------------------------------------------------------------------------------------------


def drive(folder: Path, strategy: str, budget: int, workers: int, seconds: float) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), strategy, str(budget), str(workers), str(seconds)]
    return subprocess.Popen(command, start_new_session=True)


def kill_until_done(
    folder: Path, strategy: str, *, budget: int, workers: int, kills: int, seconds: float, group: bool
) -> int:
    """Runs the same command, killing it at random moments after its first sign of life; returns the kills made."""
    dice = random.Random(f"{strategy}{workers}{group}")
    killed = 0
    for _ in range(kills):
        size = log_size(folder)
        process = drive(folder, strategy, budget, workers, seconds)
        while process.poll() is None and log_size(folder) == size:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, seconds * budget / kills))
        if process.poll() is not None:
            break
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        killed += 1
    assert drive(folder, strategy, budget, workers, seconds).wait() == 0
    return killed


def log_size(folder: Path) -> int:
    path = folder / "log.txt"
    return path.stat().st_size if path.exists() else 0


def check_nothing_lost(folder: Path, reference: Path, *, kills: int, workers: int) -> None:
    assert fakes.history(folder) == fakes.history(reference)
    assert (folder / "finalists.json").read_text() == (reference / "finalists.json").read_text()
    ended: set[str] = set()
    begun: Counter[str] = Counter()
    for line in (folder / "log.txt").read_text().splitlines():
        word, candidate = line.split()
        if word == "end":
            ended.add(candidate)
        else:
            assert candidate not in ended, "a finished evaluation was done again"
            begun[candidate] += 1
    assert sum(begun.values()) - len(begun) <= kills * workers


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(1, 1), (2, 4)])
def test_a_killed_run_goes_on_and_repeats_nothing(tmp_path: Path, workers: int, kills: int) -> None:
    kills = kill_until_done(
        tmp_path / "killed", "cma_es", budget=60, workers=workers, kills=kills, seconds=0.01, group=workers == 2
    )
    assert kills >= 1
    assert drive(tmp_path / "whole", "cma_es", 60, 1, 0).wait() == 0
    check_nothing_lost(tmp_path / "killed", tmp_path / "whole", kills=kills, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "workers", "group"), [("cma_es", 1, False), ("random_search", 2, False), ("cma_es", 2, True)]
)
def test_dozens_of_kills_change_nothing(tmp_path: Path, strategy: str, workers: int, group: bool) -> None:
    kills = kill_until_done(
        tmp_path / "killed", strategy, budget=240, workers=workers, kills=30, seconds=0.01, group=group
    )
    assert kills >= 20
    assert drive(tmp_path / "whole", strategy, 240, 1, 0).wait() == 0
    check_nothing_lost(tmp_path / "killed", tmp_path / "whole", kills=kills, workers=workers)
