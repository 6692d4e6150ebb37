"""A study judged by a metric of a user's own: in every process, replayed, and refused once the file has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.tasks import metrics

Cli = Callable[..., Any]
OWN = """
from genepool.tasks.metrics import metric

@metric("1")
def share(output, example, strip):
    return sum(a == b for a, b in zip(output.strip(), example.answer)) / len(example.answer)
"""


@pytest.fixture
def judged(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study in the world of the others, with a task of the metric `share`, which the file `share.py` defines."""
    monkeypatch.setattr(metrics, "_registry", dict(metrics.all_metrics()))
    tasks = tmp_path / "tasks"
    shutil.copytree(world / "tasks", tasks)
    for folder in tasks.iterdir():
        settings = folder / "task.yaml"
        told = yaml.safe_load(settings.read_text()) if settings.is_file() else {}
        settings.write_text(yaml.safe_dump({**told, "metric": "share"}))
    study = {
        **evolve_world.STUDY,
        "base": str(world / evolve_world.STUDY["base"]),
        "skills": [str(world / skill) for skill in evolve_world.STUDY["skills"]],
        "tasks": {**evolve_world.STUDY["tasks"], "dir": str(tasks)},
        "strategy": {"name": "random_search", "options": {"population": 2}},
        "budget": {"evaluations": 4},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (tmp_path / "share.py").write_text(OWN)
    return tmp_path


@pytest.mark.slow
def test_a_study_is_judged_by_a_metric_of_ones_own(judged: Path, cli: Cli) -> None:
    plugin = ("--plugin", judged / "share.py")

    def run(name: str, workers: int, *more: Any) -> Any:
        where = ("--out", judged / name, "--ledger", judged / f"{name}.sqlite", "--workers", workers)
        return cli("evolve", judged / "study.yaml", *where, "--quiet", *more)

    refused = run("none", 1)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "unknown metric 'share'" in refused.err
    assert not (judged / "none").exists()
    for name, workers in (("one", 1), ("two", 2)):
        answer = run(name, workers, *plugin)
        assert answer.code == 0, answer.err
    one, two = (
        [json.loads(line)["fitness"] for line in (judged / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert one == two
    assert cli("report", judged / "one", "--out", judged / "page.html", *plugin, "--quiet").code == 0
    told = cli("report", judged / "one", "--out", judged / "page.md", *plugin, "--json")
    assert json.loads(told.out)["notices"] == []
    (judged / "share.py").write_text(f"{OWN}\n# Another version.\n")
    changed = run("one", 1, "--budget", 6, *plugin)
    assert (changed.code, "the study changed since this run began" in changed.err) == (2, True)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_metric_that_gives_no_score_ends_the_study_in_a_line(judged: Path, cli: Cli, workers: int) -> None:
    (judged / "share.py").write_text(OWN.replace("return sum", "return 7 + sum"))
    where = ("--out", judged / "out", "--ledger", judged / "ledger.sqlite", "--workers", workers)
    answer = cli("evolve", judged / "study.yaml", *where, "--plugin", judged / "share.py", "--quiet")
    assert (answer.code, answer.out) == (2, "")
    assert "the metric 'share' gives" in answer.err
    assert "expected a number from 0 to 1" in answer.err
