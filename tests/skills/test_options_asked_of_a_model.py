"""The options of `genepool skill` whose work is to ask a model: what localising and calibrating go by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genepool.tasks import metrics
from genepool.weights.skill_file import SkillFile

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tiny_testbed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, `tuned`, and few examples: `tasks`; `co.py`, which makes them and has a name as long, for names take room
    of a budget; `turned`, where valid and test have changed places; `short`, which ends after 3. The folder `pickles`
    has the models as PyTorch's .bin files."""
    folder = tmp_path_factory.mktemp("asked")
    for name, model in (("base", tiny_testbed.base), ("tuned", tiny_testbed.full["reverse"])):
        shutil.copytree(model, folder / name)
        shutil.copytree(model, folder / "pickles" / name, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(load_file(model / "model.safetensors"), folder / "pickles" / name / "pytorch_model.bin")
    for split, changed in (("train", "train"), ("valid", "test"), ("test", "valid")):
        lines = (tiny_testbed.tasks / "reverse" / f"{split}.jsonl").read_text().splitlines()[:8]
        for place, name, count in (("tasks", split, 8), ("turned", changed, 8), ("short", split, 3)):
            (folder / place / "reverse").mkdir(parents=True, exist_ok=True)
            (folder / place / "reverse" / f"{name}.jsonl").write_text("\n".join(lines[:count]))
    shutil.copytree(folder / "tasks", folder / "pickles" / "tasks")
    code = "from genepool.tasks import load_tasks\n(reverse,) = load_tasks('tasks')\n"
    shutil.copytree(folder / "tasks", folder / "judged")
    (folder / "judged" / "reverse" / "task.yaml").write_text("metric: own_match\n")
    (folder / "own_match.py").write_text(OWN_METRIC)
    for place in (folder, folder / "pickles"):
        (place / "co.py").write_text(code)
    return folder


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test stands in the folder of the models."""
    monkeypatch.chdir(made)
    return made


def _told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told.pop("schema") == 1
    return told


OWN_METRIC = """
from genepool.tasks.metrics import metric

@metric("1")
def own_match(output, example, strip):
    return float(output.strip() in [answer.strip() for answer in example.answers])
"""
LOCALISE = ["skill", "localise", "tuned", "--base", "base"]
COMPRESS = ["skill", "compress", "tuned", "--base", "base", "--size", "20KB"]


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_the_share_of_the_gain_and_the_split_are_those_that_are_named(cli: Cli, tmp_path: Path) -> None:
    found = {}
    for name, more in (
        ("default", ["--tasks", "tasks"]),
        ("half", ["--tasks", "tasks", "--keep", 0.5]),
        ("test", ["--tasks", "tasks", "--split", "test"]),
        ("turned", ["--tasks", "turned"]),
    ):
        told = _told(cli(*LOCALISE, *more, "--out", tmp_path / f"{name}.safetensors", "--json"))
        found[name] = {key: told[key] for key in ("density", "score", "full", "base_score", "entries")}
    assert found["default"] != found["test"] == found["turned"]
    half = found["half"]
    assert half["density"] < found["default"]["density"]
    assert half["score"] >= half["base_score"] + 0.5 * (half["full"] - half["base_score"])


@pytest.mark.slow
@pytest.mark.usefixtures("world", "loud")
def test_localising_stores_replaces_and_is_quiet_as_is_said(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    out.write_text("old")
    call = (*LOCALISE, "--tasks", "tasks", "--keep", 0.3, "--out", out)
    refused = cli(*call, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n"), out.read_text()) == (2, "", 1, "old")
    loud = cli(*call, "--overwrite", "--dtype", "float16")
    assert (loud.code, bool(loud.err)) == (0, True)
    assert _dtypes(out) == {"F16"}
    quiet = cli(*call, "--overwrite", "--dtype", "float32", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert _dtypes(out) == {"F32"}
    assert "of the changed entries" in quiet.out
    assert cli(*LOCALISE, "--tasks", "tasks", "--keep", 1.5, "--out", tmp_path / "t.safetensors").code == 2


def _dtypes(file: Path) -> set[str]:
    """The types of the values of matrices; places are whole numbers."""
    skill = SkillFile(file)
    parts = (
        part for name in skill.names() for part in skill.stored(name)[1].parts.values() if len(skill.shape(name)) > 1
    )
    return {part.info.dtype for part in parts} & {"F32", "BF16", "F16"}


@pytest.mark.slow
@pytest.mark.parametrize("call", [LOCALISE, COMPRESS], ids=lambda call: call[1])
def test_pickles_are_asked_when_that_is_said(
    cli: Cli, call: list[str], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--tasks", "tasks", "--keep", 0.3] if call is LOCALISE else ["--calibrate", "tasks"]
    told = _told(cli(*call, *more, "--out", tmp_path / "s.safetensors", "--json"))
    monkeypatch.chdir(world / "pickles")
    refused = cli(*call, *more, "--out", tmp_path / "p.safetensors", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--allow-pickle" in refused.err
    opened = _told(cli(*call, *more, "--out", tmp_path / "p.safetensors", "--allow-pickle", "--json"))
    assert {**opened, "out": told["out"]} == told


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_columns_count_by_the_examples_that_are_named(cli: Cli, tmp_path: Path) -> None:
    files = {}
    for name, more in {
        "unweighted": [],
        "every": ["--calibrate", "tasks"],
        "few": ["--calibrate", "tasks", "--limit", 3],
        "short": ["--calibrate", "short"],
    }.items():
        files[name] = tmp_path / f"{name}.safetensors"
        told = _told(cli(*COMPRESS, *more, "--out", files[name], "--json"))
        assert told["bytes"] == files[name].stat().st_size <= 20_000
    held = {name: SkillFile(file) for name, file in files.items()}
    assert _same(held["few"], held["short"])
    assert not _same(held["few"], held["every"])
    assert not _same(held["unweighted"], held["every"])
    assert cli(*COMPRESS, "--calibrate", "tasks", "--limit", 0, "--out", tmp_path / "s.safetensors").code == 2


def _same(one: SkillFile, other: SkillFile) -> bool:
    return set(one.names()) == set(other.names()) and all(
        torch.equal(one.whole(name), other.whole(name)) for name in one.names()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "call", [[*LOCALISE, "--keep", 0.3, "--tasks"], [*COMPRESS, "--calibrate"]], ids=["localise", "compress"]
)
def test_code_is_run_when_that_is_said(cli: Cli, call: list[Any], tmp_path: Path) -> None:
    refused = cli(*call, "co.py", "--out", tmp_path / "a.safetensors", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "pass --trust-tasks co.py" in refused.err
    plain = cli(*call, "tasks", "--out", tmp_path / "b.safetensors", "--quiet")
    coded = cli(*call, "co.py", "--trust-tasks", "co.py", "--out", tmp_path / "c.safetensors", "--quiet")
    assert (plain.code, coded.code) == (0, 0), coded.err
    made, same = (SkillFile(tmp_path / f"{name}.safetensors") for name in "bc")
    assert all(torch.equal(made.whole(name), same.whole(name)) for name in made.names())


@pytest.mark.slow
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "call", [[*LOCALISE, "--keep", 0.3, "--tasks"], [*COMPRESS, "--calibrate"]], ids=["localise", "compress"]
)
def test_a_metric_of_ones_own_is_known_when_its_file_is_named(
    cli: Cli, call: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_registry", dict(metrics.all_metrics()))
    refused = cli(*call, "judged", "--out", tmp_path / "a.safetensors", "--quiet")
    assert (refused.code, "name it with --plugin" in refused.err) == (2, True)
    own = cli(*call, "judged", "--plugin", "own_match.py", "--out", tmp_path / "own.safetensors", "--quiet")
    assert own.code == 0, own.err
    assert cli(*call, "tasks", "--out", tmp_path / "plain.safetensors", "--quiet").code == 0
    made, same = (SkillFile(tmp_path / f"{name}.safetensors") for name in ("own", "plain"))
    assert all(torch.equal(made.whole(name), same.whole(name)) for name in made.names())


def test_a_library_is_searched_by_code_and_with_a_pickled_base_when_that_is_said(
    cli: Cli, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, there = tmp_path / "reverse.safetensors", ("--library", tmp_path / "library")
    assert cli("skill", "extract", "tuned", "--base", "base", "--out", file, "--quiet").code == 0
    assert cli("library", "init", *there).code == 0
    assert cli("library", "add", file, *there).code == 0
    search = ("library", "search", *there, "--examples", 4, "--cheap", "--base", "base")
    told = _told(cli(*search, "--tasks", "tasks/reverse", "--json"))
    refused = cli(*search, "--tasks", "co.py", "--quiet")
    assert (refused.code, "pass --trust-tasks co.py" in refused.err) == (2, True)
    assert _told(cli(*search, "--tasks", "co.py", "--trust-tasks", "co.py", "--json"))["hits"] == told["hits"]
    with monkeypatch.context() as patched:
        patched.setattr(metrics, "_registry", dict(metrics.all_metrics()))
        refused = cli(*search, "--tasks", "judged/reverse", "--quiet")
        assert (refused.code, "name it with --plugin" in refused.err) == (2, True)
        own = _told(cli(*search, "--tasks", "judged/reverse", "--plugin", "own_match.py", "--json"))
        assert own["hits"] == told["hits"]
    monkeypatch.chdir(world / "pickles")
    refused = cli(*search, "--tasks", "tasks/reverse", "--quiet")
    assert (refused.code, "--allow-pickle" in refused.err) == (2, True)
    assert _told(cli(*search, "--tasks", "tasks/reverse", "--allow-pickle", "--json"))["hits"] == told["hits"]
