"""Watching, ending early and forking: what surrounds a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.cli.main import run as command
from genepool.errors import InputError
from genepool.evolution import load_study, run_study
from genepool.evolution.snapshot import take_snapshot
from genepool.evolution.stopping import with_stops
from genepool.evolution.study import Study
from genepool.locking import locked


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_study(world / "study.yaml", out, ledger=out.parent / "ledger.sqlite")
    return out


def history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def test_a_look_says_what_the_history_says_and_changes_nothing(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir())
    seen = take_snapshot(copy)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir()) == before
    lines = history(finished)
    best = max(lines, key=lambda line: line["fitness"])
    assert (seen.done, seen.failed, seen.finished, seen.running) == (20, 0, True, False)
    assert seen.best == best["fitness"]
    assert seen.best_name == f"{best['generation']}.{best['index']}"
    assert seen.bests == tuple(sorted(seen.bests))
    assert {task.task for task in seen.tasks} == {"pick", "say"}
    assert seen.left == 0
    json.dumps(seen.to_dict(), allow_nan=False)


def test_a_study_in_hand_is_said_to_run(finished: Path) -> None:
    with locked(finished):
        assert take_snapshot(finished).running
    assert not take_snapshot(finished).running


def test_top_prints_once_where_there_is_no_terminal(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["top", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "cma_es, finished: 20 of 20 candidates" in shown
    assert "pick" in shown
    assert command(["top", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 20


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_where_nothing_runs_there_is_nothing_to_watch(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert command(["top", str(tmp_path / name)]) == 2
    assert "genepool evolve --out" in capsys.readouterr().err


def test_a_damaged_record_is_named(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / "study.sqlite").write_bytes(b"nonsense" * 200)
    with pytest.raises(InputError, match=r"study\.sqlite: cannot be read as a study"):
        take_snapshot(copy)


# ---------------------------------------------------------------------- ending early


def any_study() -> Study:
    return Study.model_validate(evolve_world.STUDY)


def test_ends_are_read_from_the_command_line() -> None:
    study = with_stops(any_study(), ["target=0.9,stall=5", "minutes=2.5", "evaluations=40"])
    assert (study.stop.target, study.stop.stall) == (0.9, 5)
    assert (study.budget.evaluations, study.budget.minutes) == (40, 2.5)
    assert with_stops(any_study(), []) == any_study()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tarqet=1", "Did you mean 'target'"),
        ("target", "expected target=NUMBER"),
        ("stall=", "expected stall=NUMBER"),
        ("stall=many", "expected stall=NUMBER"),
        ("stall=0", "greater than or equal to 1"),
        ("stall=1.5", "integer"),
        ("minutes=-1", "greater than 0"),
    ],
)
def test_ends_that_say_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_stops(any_study(), [text])


# ---------------------------------------------------------------------- forks


def changed(world: Path, name: str, **changes: Any) -> Path:
    path = world / name
    data = {key: value for key, value in {**evolve_world.STUDY, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.slow
def test_a_changed_study_is_refused_and_its_fork_begins_at_the_best(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    study = changed(world, "wider.yaml", search={"weight": {"low": 0.0, "high": 2.0}}, budget={"evaluations": 8})
    ledger = finished.parent / "ledger.sqlite"
    with pytest.raises(InputError, match=r"search\.weight\.high was 1\.0 and is 2\.0.*--fork"):
        run_study(study, finished, ledger=ledger)
    before = (finished / "best.json").read_bytes()
    out = tmp_path / "fork"
    run_study(study, out, ledger=ledger, fork=finished)
    assert (finished / "best.json").read_bytes() == before
    genome = json.loads(before)["genome"]
    mean = sum(genome.values()) / len(genome)
    assert list(history(out)[0]["genome"].values()) == pytest.approx([mean, mean], abs=1e-5)
    assert json.loads((out / "best.json").read_text())["forked_from"] == str(finished.resolve())
    # It goes on as a fork, said again or not.
    more = run_study(study, out, ledger=ledger, evaluations=10)
    assert more.best["evaluations"] == 10
    assert run_study(study, out, ledger=ledger, evaluations=10, fork=finished).resumed


@pytest.mark.slow
def test_a_fork_that_breeds_takes_the_winner_along(world: Path, finished: Path, tmp_path: Path) -> None:
    study = changed(
        world, "breed.yaml", method=None, parameters=None, search=None, strategy="m2n2", budget={"evaluations": 4}
    )
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite", fork=finished)
    skills = [skill.name for skill in load_study(tmp_path / "out" / "study.yaml").skills]
    assert skills == ["a", "b", "winner-of-run"]


def test_only_a_finished_run_can_be_forked(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        run_study(world / "study.yaml", tmp_path / "out", ledger=tmp_path / "l.sqlite", fork=tmp_path)
    assert not (tmp_path / "out").exists()
