"""Whole studies on a small real model: from the file to the tested winner, and every way of stopping on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution import load_study, run_study
from genepool.evolution.opened_study import OpenedStudy
from genepool.locking import locked


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evolve_world.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(built: Path, tmp_path: Path) -> Path:
    """A world of one's own; small enough to copy."""
    return Path(shutil.copytree(built, tmp_path / "world"))


def study_in(world: Path, name: str = "study.yaml", **changes: Any) -> Path:
    path = world / name
    data = {**evolve_world.STUDY, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


def history(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def best(out: Path) -> dict[str, Any]:
    """`best.json` without what the clock and interruptions change."""
    data = json.loads((out / "best.json").read_text())
    return {key: value for key, value in data.items() if key not in ("cost", "ledger")}


@pytest.mark.slow
def test_a_study_from_file_to_tested_winner(world: Path, tmp_path: Path) -> None:
    from genepool.merging import load_recipe, plan_merge
    from genepool.tasks import Ledger, evaluate, load_tasks
    from genepool.weights import open_weights

    out, ledger = tmp_path / "run", tmp_path / "ledger.sqlite"
    result = run_study(world / "study.yaml", out, ledger=ledger)
    assert {path.name for path in out.iterdir()} >= {
        "study.yaml",
        "study.sqlite",
        "best.json",
        "history.jsonl",
        "winner",
    }
    record = json.loads((out / "best.json").read_text())
    assert record == result.best
    assert set(record) >= {
        "genome",
        "fingerprint",
        "valid",
        "test",
        "evaluations",
        "seed",
        "strategy",
        "recipe",
        "cost",
    }
    assert (record["evaluations"], record["seed"], record["strategy"]) == (20, 1, "cma_es")
    assert [row["kind"] for row in record["models"]] == ["base", "parent", "parent", "winner"]
    lines = history(out)
    assert len(lines) == 20
    assert len({line["fitness"] for line in lines}) > 3, "the world is too dull to tell candidates apart"
    # The best of the search are judged on all 24 validation examples, and the best of those wins.
    finalists = record["finalists"]
    assert len(finalists) == 6
    assert (record["id"], record["fitness"]) == (finalists[0]["id"], max(f["fitness"] for f in finalists))
    by_id = {line["id"]: line for line in lines}
    assert [f["searched"] for f in finalists if f["index"] >= 0] == [
        by_id[f["id"]]["fitness"] for f in finalists if f["index"] >= 0
    ]
    # The first candidate is the start point.
    assert set(lines[0]["genome"].values()) == {0.4}

    assert load_study(out / "study.yaml") == load_study(world / "study.yaml")

    # What was written scores on validation exactly what the search saw in memory, and on test what the record says.
    written = open_weights(str(out / "winner"))
    assert written.fingerprint() == record["fingerprint"]
    tasks = load_tasks(str(world / "tasks"))
    for split, said in (("valid", record["valid"]), ("test", record["test"])):
        with Ledger(tmp_path / f"{split}.sqlite") as fresh:
            table = evaluate([written], tasks, split=split, ledger=fresh, seed=1, threads=1, batch_size=8)
        assert {task: table.mean(table.models[0], task) for task in table.tasks} == said

    # The winner's recipe is an ordinary recipe, and makes the winner.
    again = plan_merge(load_recipe(out / "winner" / "recipe.yaml")).weights()
    for name in again.names():
        assert (again.read(name) == written.read(name)).all()
    card = (out / "winner" / "README.md").read_text()
    for part in ("## Scores", "## Lineage", "## Genome", "## Cost", "## Recipe", "a.weight[layers 0-0]"):
        assert part in card


@pytest.mark.slow
def test_a_finished_study_says_so_and_a_larger_budget_goes_on(world: Path, tmp_path: Path) -> None:
    steps, once = tmp_path / "steps", tmp_path / "once"
    first = run_study(world / "study.yaml", steps)
    before = {path: path.stat().st_mtime_ns for path in steps.rglob("*") if path.is_file()}
    again = run_study(world / "study.yaml", steps)
    assert (again.resumed, again.best) == (True, first.best)
    changed = {path.name for path, stamp in before.items() if path.is_file() and path.stat().st_mtime_ns != stamp}
    assert changed <= {"study.sqlite", "study.sqlite-wal", "study.sqlite-shm"}
    run_study(world / "study.yaml", steps, evaluations=37)
    run_study(world / "study.yaml", once, evaluations=37)
    assert history(steps) == history(once)
    assert best(steps) == best(once)


@pytest.mark.slow
def test_two_workers_give_what_one_gives(world: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        run_study(world / "study.yaml", tmp_path / str(workers), workers=workers, ledger=tmp_path / f"{workers}.sqlite")
    assert history(tmp_path / "1") == history(tmp_path / "2")
    assert best(tmp_path / "1") == best(tmp_path / "2")


@pytest.mark.slow
def test_random_search_is_the_same_study_with_another_strategy(world: Path, tmp_path: Path) -> None:
    study = study_in(world, strategy="random_search", objective={"worst": 0.3}, budget={"evaluations": 12})
    run_study(study, tmp_path / "random")
    lines = history(tmp_path / "random")
    assert {line["strategy"] for line in lines} == {"random_search"}
    for line in lines:
        values = line["valid"].values()
        assert line["fitness"] == pytest.approx(0.7 * sum(values) / 2 + 0.3 * min(values))


@pytest.mark.slow
def test_another_study_finds_evaluations_in_the_ledger(world: Path, tmp_path: Path) -> None:
    run_study(world / "study.yaml", tmp_path / "one")
    run_study(world / "study.yaml", tmp_path / "two")
    cached = [json.loads(line)["cached"] for line in (tmp_path / "two" / "history.jsonl").read_text().splitlines()]
    assert all(cached)
    assert history(tmp_path / "one") == history(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "best.json").read_text())["cost"]["examples"] == 0


@pytest.mark.slow
def test_a_study_or_a_model_that_changed_is_refused_with_its_name(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_study(world / "study.yaml", out)
    kept = best(out)
    with pytest.raises(InputError, match=r"search\.weight\.high was 1\.0 and is 0\.9"):
        run_study(
            study_in(world, search={"weight": {"low": 0, "high": 0.9, "start": 0.4, "per": {"layer_groups": 2}}}), out
        )
    shutil.rmtree(world / "skills" / "b")
    shutil.copytree(world / "skills" / "a", world / "skills" / "b")
    with pytest.raises(InputError, match=r"inputs\.models\.b was [0-9a-f]{12} and is [0-9a-f]{12}"):
        run_study(study_in(world), out)
    assert best(out) == kept
    run_study(study_in(world), out, overwrite=True)
    assert best(out) != kept


@pytest.mark.slow
def test_a_moved_world_goes_on(world: Path, tmp_path: Path) -> None:
    run_study(world / "study.yaml", tmp_path / "run")
    world.rename(tmp_path / "elsewhere")
    assert run_study(tmp_path / "elsewhere" / "study.yaml", tmp_path / "run").resumed


def test_one_driver_at_a_time(world: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(InputError, match="this process is writing here"):
        run_study(world / "study.yaml", tmp_path / "run")
    assert not any(path.name.startswith("run") for path in tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_given_in_python(world: Path, tmp_path: Path) -> None:
    study = load_study(world / "study.yaml")
    result = run_study(study, tmp_path / "run", evaluations=8, seed=4)
    assert result.best["seed"] == 4
    assert result.winner.is_dir()
    assert set(result.genome) == {f"{skill}.weight[layers {n}-{n}]" for skill in "ab" for n in (0, 1)}


def test_the_inputs_of_a_study_are_known_by_content(world: Path) -> None:
    study = load_study(world / "study.yaml")
    before = OpenedStudy.open(study).inputs
    assert OpenedStudy.open(study).inputs == before
    path = world / "tasks" / "pick" / "valid.jsonl"
    path.write_text(path.read_text().replace("=", "~", 1))
    after = OpenedStudy.open(study).inputs
    assert after["examples"]["pick"] != before["examples"]["pick"]
    assert {**after, "examples": {}} == {**before, "examples": {}}


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_table_or_one_object(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    answer = cli("evolve", world / "study.yaml", "--out", tmp_path / "run", "--budget", 8, "--quiet")
    assert answer.code == 0, answer.err
    for word in ("base", "winner", "best of 8 candidates", "report.html"):
        assert word in answer.out
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    answer = cli("evolve", world / "study.yaml", "--out", tmp_path / "run", "--budget", 8, "--json")
    payload = json.loads(answer.out)
    assert payload["schema"] == 1
    assert payload["finished_before"] is True
    assert payload["evaluations"] == 8
    assert payload["report"] == str(tmp_path / "run" / "report.html")
    assert "this study is finished" in answer.err


def test_strategies_are_listed(cli: Callable[..., Any]) -> None:
    rows = json.loads(cli("strategies", "--json").out)["strategies"]
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    assert {"cma_es", "random_search"} <= {row["name"] for row in rows}
    assert "sigma" in cli("strategies", "cma_es").out
    assert "cma_es" in cli("strategies").out
    assert cli("strategies", "cmaes").code == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"strategy": "cmaes"}, "unknown strategy 'cmaes'. Did you mean 'cma_es'?"),
        ({"strategy": {"name": "cma_es", "options": {"sgma": 1}}}, "unknown key 'sgma'. Did you mean 'sigma'?"),
        ({"method": "task_arithmetics"}, "unknown merge method"),
        ({"parameters": {"lamda": 1}}, "no parameter 'lamda'"),
        ({"search": {"wieght": {"low": 0, "high": 1}}}, "no parameter 'wieght'. Did you mean 'weight'?"),
        ({"budget": {"evaluations": 7}}, "one generation. Allow 8 or more, here or with --budget, or set"),
        ({"skills": ["skills/a"]}, "two skills or more"),
        ({"skills": ["skills/a", "skills/none"]}, "none"),
        ({"base": "none"}, "none"),
        ({"tasks": {"dir": "nowhere"}}, "nowhere"),
        ({"tasks": {"dir": "tasks", "names": ["pik"]}}, "no task 'pik'. Did you mean 'pick'?"),
        ({"tasks": {"dir": "tasks", "names": ["pick"], "weights": {"say": 2}}}, "no task 'say'"),
        ({"tasks": {"dir": "tasks", "weights": {"say": 0, "pick": 0}}}, "no task has a weight above zero"),
        ({"tasks": {"dir": "tasks", "names": []}}, "tasks.names: this should have at least 1 item"),
        ({"tasks": {"dir": "tasks/pick/valid.jsonl"}}, "has one split"),
        ({"tasks": {"dir": "empty"}}, "the file has no examples"),
        ({"unknown": 1}, "unknown key 'unknown'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, cli: Callable[..., Any], changes: dict[str, Any], complaint: str
) -> None:
    (world / "empty" / "pick").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (world / "empty" / "pick" / f"{split}.jsonl").touch()
    answer = cli("evolve", study_in(world, **changes), "--out", tmp_path / "run", "--quiet")
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("error: ")
    assert complaint in answer.err
    assert not (tmp_path / "run").exists()


def test_wrong_options_are_one_line(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    study, out = world / "study.yaml", tmp_path / "run"
    for arguments, complaint in (
        ((world / "none.yaml", "--out", out), "no such file"),
        ((study, "--out", out, "--workers", "ray:0"), "expected a number or an address of Ray"),
        ((study, "--out", out, "--workers", "0"), "must be at least 1, got 0"),
        ((study, "--out", out, "--workers", "many"), "got 'many', expected a number of workers"),
        ((study, "--out", out, "--budget", "0"), "must be from 1 to 10^9 evaluations, got 0. Give another --budget"),
        ((study, "--out", out, "--seed", "-1"), "--seed: must be at least 0, got -1"),
        ((study, "--out", world), "not empty"),
    ):
        answer = cli("evolve", *arguments)
        assert answer.code == 2, answer
        assert complaint in answer.err.splitlines()[-1]
    assert not out.exists()
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no ledger, but long enough to be taken for a file with something in it " * 30)
    answer = cli("evolve", study, "--out", out, "--ledger", broken, "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert str(broken) in answer.err


def test_skills_of_another_base_are_refused(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from safetensors.torch import load_file, save_file

    path = world / "skills" / "b" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "mlp" in name)
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    answer = cli("evolve", world / "study.yaml", "--out", tmp_path / "run", "--quiet")
    assert answer.code == 2
    assert name in answer.err


# -- kill -9 and Ctrl-C on the real thing --------------------------------------------------------------------------


def start(world: Path, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "genepool", "evolve", str(world / "study.yaml"), "--out", str(out), *arguments]
    # Tests that run in a shell's background inherit a Ctrl-C that is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=heard)


def wait_for_results(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    import sqlite3

    while process.poll() is None:
        try:
            with sqlite3.connect(f"file:{out / 'study.sqlite'}?mode=ro", uri=True) as database:
                if database.execute("SELECT count(*) FROM results").fetchone()[0] >= count:
                    return
        except sqlite3.Error:
            pass
        time.sleep(0.005)
    assert process.stderr is not None
    raise AssertionError(f"it ended with {process.returncode}: {process.stderr.read().decode()}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_study_ends_where_an_undisturbed_one_does(world: Path, tmp_path: Path, workers: str) -> None:
    arguments = [
        "--ledger",
        str(tmp_path / f"killed{workers}.sqlite"),
        "--workers",
        workers,
        "--quiet",
        "--budget",
        "40",
    ]
    for results in (1, 9, 22, 38):
        process = start(world, tmp_path / "killed", *arguments)
        wait_for_results(tmp_path / "killed", results, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(world, tmp_path / "killed", *arguments)
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    run_study(world / "study.yaml", tmp_path / "whole", evaluations=40, ledger=tmp_path / "whole.sqlite")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert best(tmp_path / "killed") == best(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(world: Path, tmp_path: Path, workers: str) -> None:
    arguments = ["--workers", workers, "--quiet", "--budget", "40"]
    process = start(world, tmp_path / "stopped", *arguments)
    wait_for_results(tmp_path / "stopped", 5, process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130
    assert said.count("\n") == 1
    assert said.startswith("error: interrupted")
    assert not (tmp_path / "stopped" / "best.json").exists()
    assert start(world, tmp_path / "stopped", *arguments).wait() == 0
    run_study(world / "study.yaml", tmp_path / "whole", evaluations=40)
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


OWN_METHOD = """
from genepool.merging import Method, Parameter, register


@register
class Pull(Method):
    name = "pull"
    source = "none"
    when = "Never."
    formula = "th0 + sum_i w_i t_i"
    inputs = "deltas"
    base = "required"
    parameters = (Parameter("weight", 1.0, "How far.", per_model=True),)

    def merge(self, group, survey):
        weights = group.column("weight")
        return group.base + sum(w * group.deltas[i] for i, w in enumerate(weights))
"""


@pytest.mark.slow
def test_a_method_of_ones_own_is_searched_in_every_process(
    world: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.merging import all_methods, registry

    monkeypatch.setattr(registry, "_registry", dict(all_methods()))
    plugin = tmp_path / "pull.py"
    plugin.write_text(OWN_METHOD)
    study = study_in(world, method="pull", parameters=None, budget={"evaluations": 12})
    runs = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        command = ("evolve", study, "--out", out, "--workers", workers, "--ledger", tmp_path / f"{workers}.sqlite")
        answer = cli(*command, "--plugin", plugin)
        assert answer.code == 0, answer.err
        runs.append((best(out), history(out)))
    assert runs[0] == runs[1]
    monkeypatch.setattr(registry, "_registry", {name: m for name, m in all_methods().items() if name != "pull"})
    write = ("collection", tmp_path / "1", "--write", "winner", "--out", tmp_path / "model", "--quiet")
    assert cli(*write).code == 2
    assert cli(*write, "--plugin", plugin).code == 0
    plugin.write_text(OWN_METHOD + "\n# Another version.\n")
    answer = cli(*command[:-1], tmp_path / "2.sqlite", "--budget", 24, "--plugin", plugin)
    assert answer.code == 2
    assert "the study changed since this run began" in answer.err
    assert "inputs.method was" in answer.err
