"""The options of the commands around a study, `evolve`, `collection` and `top`: each does what it says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.evolution.collection import read_collection
from genepool.locking import locked
from genepool.weights import open_weights

Cli = Callable[..., Any]


def study_in(world: Path, name: str, **changes: Any) -> Path:
    path = world / f"{name}.yaml"
    data = {**evolve_world.STUDY, "budget": {"evaluations": 8}, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


def _told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["schema"] == 1
    return told


@pytest.fixture(scope="module")
def bred(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that bred models, and so gathered a population."""
    from genepool.evolution import run_study

    out = tmp_path_factory.mktemp("bred") / "run"
    strategy = {"name": "genome", "options": {"population": 3}}
    study = study_in(
        world, "bred", strategy=strategy, method=None, parameters=None, search=None, budget={"evaluations": 6}
    )
    run_study(study, out, ledger=out.parent / "ledger.sqlite")
    return out


def test_a_collection_is_one_object(bred: Path, cli: Cli) -> None:
    members = _told(cli("collection", bred, "--json"))["members"]
    assert [(one["name"], one["group"], one["scores"]) for one in members] == [
        (row.name, row.group, row.scores) for row in read_collection(bred)
    ]
    assert len(members) == 3


def test_what_another_process_wrote_meanwhile_stays(
    bred: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is looked at once more when nobody else can write there: it was free when the command began."""
    from genepool.evolution import collection

    out, open_study = tmp_path / "model", collection.OpenedStudy.open

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        return open_study(*arguments, **options)

    monkeypatch.setattr(collection.OpenedStudy, "open", meanwhile)
    answer = cli("collection", bred, "--write", "winner", "--out", out)
    assert (answer.code, answer.out) == (2, "")
    assert "the output folder is not empty" in answer.err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("loud")
def test_a_candidate_replaces_what_is_there_and_is_quiet_as_is_said(bred: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    call = ("collection", bred, "--write", "winner", "--out", out)
    refused = cli(*call, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "not empty" in refused.err
    assert (out / "thesis.txt").read_text() == "years of work"
    loud = cli(*call, "--overwrite", "--json")
    assert loud.err
    told = _told(loud)
    assert (told["name"], told["written"]) == ("winner", str(out))
    assert open_weights(out).fingerprint() == open_weights(bred / "winner").fingerprint()
    quiet = cli(*call, "--overwrite", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert f"written to {out}" in quiet.out


@pytest.mark.slow
def test_a_run_ends_when_that_is_said(world: Path, tmp_path: Path, cli: Cli) -> None:
    study = study_in(world, "long", budget={"evaluations": 40})
    for number, end in enumerate(("evaluations=8", "target=0,stall=9")):
        out = tmp_path / f"run{number}"
        told = _told(cli("evolve", study, "--out", out, "--stop-when", end, "--json"))
        assert told["evaluations"] == len((out / "history.jsonl").read_text().splitlines()) == 8
    wrong = cli("evolve", study, "--out", tmp_path / "none", "--stop-when", "stall=0", "--quiet")
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_run_is_begun_anew_or_forked_when_that_is_said(world: Path, tmp_path: Path, cli: Cli) -> None:
    study, out = study_in(world, "short"), tmp_path / "run"
    first = _told(cli("evolve", study, "--out", out, "--json"))
    assert _told(cli("evolve", study, "--out", out, "--json"))["finished_before"]
    wider = study_in(world, "wider", search={"weight": {"low": 0.0, "high": 2.0}})
    refused = cli("evolve", wider, "--out", out, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--fork" in refused.err
    forked = _told(cli("evolve", wider, "--out", tmp_path / "fork", "--fork", out, "--json"))
    assert forked["forked_from"] == str(out.resolve())
    begins = json.loads((tmp_path / "fork" / "history.jsonl").read_text().splitlines()[0])["genome"]
    mean = sum(first["genome"].values()) / len(first["genome"])
    assert list(begins.values()) == pytest.approx([mean, mean], abs=1e-5)
    anew = _told(cli("evolve", wider, "--out", out, "--overwrite", "--json"))
    assert not anew["finished_before"]
    assert "forked_from" not in anew
    assert anew["genome"].keys() != first["genome"].keys()


@pytest.fixture
def running(bred: Path) -> Iterator[Path]:
    """The study as one that another process has in hand."""
    with locked(bred):
        yield bred


def test_a_look_is_taken_once_or_again_and_again(running: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    once = cli("top", running, "--once")
    assert (once.code, waits) == (0, [])
    assert once.out.count("6 of 6 candidates") == 1
    watched = cli("top", running, "--every", 2.5)
    assert (watched.code, waits) == (130, [2.5] * 3)
    assert cli("top", running, "--every", 0).code == 2


@pytest.mark.slow
def test_candidates_are_evaluated_in_the_type_that_is_said(world: Path, tmp_path: Path, cli: Cli) -> None:
    study = study_in(world, "typed")
    where = ["--out", tmp_path / "run", "--ledger", tmp_path / "ledger.sqlite", "--quiet"]
    assert cli("evolve", study, *where, "--dtype", "bfloat16").code == 0
    assert yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())["compute"] == "bfloat16"
    changed = cli("evolve", study, *where)
    assert changed.code == 2
    assert "compute was" in changed.err
    assert cli("evolve", study, "--out", tmp_path / "other", "--dtype", "int8").code == 2
