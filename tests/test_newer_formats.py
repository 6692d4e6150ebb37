"""Files of a format from the future: refused by every command that reads them, with what to install."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


def _change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def _skill(folder: Path) -> list[Any]:
    path = folder / "s.safetensors"
    save_file({"w": torch.zeros(2, 2)}, path, {"genepool_skill": "2", "form": "dense", "tensors": "{}"})
    return ["skill", "show", path]


def _recipe(folder: Path) -> list[Any]:
    path = folder / "recipe.yaml"
    path.write_text("genepool: 2\nmethod: linear\nmodels: [a, b]\n")
    return ["merge", path, folder / "out"]


def _study_file(folder: Path) -> list[Any]:
    path = folder / "study.yaml"
    path.write_text("study: 2\nbase: a\n")
    return ["evolve", path, "--out", folder / "out"]


def _study_record(folder: Path) -> list[Any]:
    from genepool.evolution.store import StudyStore

    run = folder / "run"
    run.mkdir()
    (run / "study.yaml").write_text("study: 1\n")
    with StudyStore(run / "study.sqlite") as store:
        store.begin({}, {})
    _change(run / "study.sqlite", "UPDATE meta SET value = '99' WHERE key = 'format'")
    return ["collection", run, "--write", "0.0", "--out", folder / "out"]


def _ledger(folder: Path) -> list[Any]:
    from genepool.tasks.ledger import Ledger

    path = folder / "outcomes.sqlite"
    Ledger(path).close()
    _change(path, "PRAGMA user_version = 99")
    return ["outcomes", "export", folder / "out.jsonl", "--ledger", path]


def _library(folder: Path) -> list[Any]:
    from genepool.skills.library import Library

    Library.create(folder / "library")
    _change(folder / "library" / "catalogue.sqlite", "PRAGMA user_version = 99")
    return ["library", "list", "--library", folder / "library"]


def _form(folder: Path) -> list[Any]:
    from tests.tasks.tiny_models import write_model

    base = write_model(folder / "base")
    (folder / "form").mkdir()
    (folder / "form" / "form.json").write_text('{"genepool_form": 2}')
    return ["inspect", base, f"{base}+{folder / 'form'}"]


@pytest.mark.parametrize("make", [_form, _skill, _recipe, _study_file, _study_record, _ledger, _library])
def test_a_newer_format_is_refused_with_what_to_install(
    make: Callable[[Path], list[Any]], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    command = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    answer = cli(*command)
    assert answer.code == 2
    assert "was written by a newer genepool" in answer.err
    assert "this one knows" in answer.err
    assert "pip install --upgrade genepool" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
