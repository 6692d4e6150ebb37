"""No command replaces what it is made from: an output that is an input, or holds one, is refused and left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from genepool.cli.main import build_app

Cli = Callable[..., Any]

# Each line would write over what it reads. All lies in `all`; pages are named as inputs by files with a page's ending.
LINES = (
    "init all all/t0 all/t1 --base all/base",
    "init all/t0 all/t0 all/t1 --base all/base",
    "init all all/base+all/skill.safetensors all/t1",
    "merge all/recipe.yaml all",
    "merge all/recipe.yaml --out all",
    "shuffle all/t0 all/recipe.yaml --out all/recipe.yaml",
    "compose adamerging all/t0 all/t1 --base all/base --tasks all/tasks --out all/tasks",
    "compose adamerging all/t0 all/t1 --base all/base --tasks all/tasks --out all",
    "soup all/t0 all/t1 --tasks all/tasks --out all/tasks",
    "soup all/t0 all/t1 --tasks all/tasks --out all",
    "train all/training.yaml --out all",
    "train all/tasks --base all/base --gate all/runs/gates.yaml --out all/runs",
    "train all/tasks --base all/base --ledger all/runs/ledger.sqlite --out all/runs",
    "adapt all/base --stream all/tasks --adapter tent --out all",
    "adapt all/base --stream all/tasks --adapter tent --out all/tasks",
    "adapt all/base --stream base --adapter tent --gate all/runs/gates.yaml --out all/runs",
    "evolve all/study.yaml --out all",
    "evolve study.yaml --out all/run",
    "collection all/run --write winner --out all",
    "library export reverse --library all/library --out all",
    "outcomes export all/ledger.sqlite --ledger all/ledger.sqlite",
    "export all/base.gguf all/base.gguf",
    "export all/t0 all/t0/model.safetensors",
    "vocabulary transplant all/t0 --tokenizer all/base --out all/base",
    "inspect all/t0 all/base --out all/page.html --base all/page.html",
    "compare all/t0 all/t1 --tasks all/tasks --gate all/gates.md --out all/gates.md",
    "profile all/t0 --tasks all/tasks.md --out all/tasks.md",
    "report all/run --ledger all/ledger.html --out all/ledger.html",
    "skill apply all/skill.safetensors --base all/base --out all",
    "skill extract all/t0 --base all/base --out all/t0/model.safetensors",
    "skill negate all/skill.safetensors --out all/skill.safetensors",
    "skill scale all/skill.safetensors --factor 2 --out all/skill.safetensors",
    "skill drop all/skill.safetensors --out all/link.safetensors",
    "skill project all/skill.safetensors --out all/skill.safetensors",
    "skill sum all/skill.safetensors all/t1 --out all/skill.safetensors",
    "skill convert all/t1 --base all/base --to peft --out all/t1",
    "skill convert all/t1 --base all/base --to dense --out all/t1/model.safetensors",
    "skill compress all/skill.safetensors --size 1KB --out all/skill.safetensors",
    "skill localise all/t0 --base all/base --tasks all/tasks.md --out all/base/model.safetensors",
)
# They read nothing that a user names, or draw a page of what only a folder can be.
NOTHING_TO_LOSE = {"testbed build", "library map"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names alone: a command is to refuse before it reads a byte."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "t0", "t1"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "model.safetensors").write_text("weights")
    for folder in ("tasks", "run", "runs", "library/files"):
        (tmp_path / "all" / folder).mkdir(parents=True)
    files = (
        "recipe.yaml training.yaml ledger.sqlite base.gguf skill.safetensors page.html gates.md tasks.md ledger.html"
    )
    for name in (*files.split(), "runs/gates.yaml", "runs/ledger.sqlite", "tasks/test.jsonl", "run/train.sqlite"):
        (tmp_path / "all" / name).write_text(name)
    (tmp_path / "all" / "link.safetensors").symlink_to("skill.safetensors")
    study = "study: 1\nbase: {}\nskills: [all/t0, all/t1]\ntasks: all/tasks\nbudget: {{evaluations: 4}}\n"
    study += "vary: {{kind: merge_parameters, method: task_arithmetic, search: {{weight: {{low: 0.0, high: 1.0}}}}}}\n"
    (tmp_path / "all" / "study.yaml").write_text(study.format("base").replace("all/", ""))
    (tmp_path / "study.yaml").write_text(study.format("all/run/winner"))
    (tmp_path / "all" / "run" / "winner").mkdir()
    return tmp_path


def _everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("line", LINES)
def test_an_input_is_never_overwritten(here: Path, cli: Cli, line: str) -> None:
    before = _everything(here)
    answer = cli(*line.split(), "--overwrite", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert any(
        said in answer.err
        for said in (
            "lies in the output folder",
            "the output is one of the inputs",
            "the output is a file of the input",
        )
    ), answer.err
    assert _everything(here) == before


def test_every_command_that_overwrites_is_among_them() -> None:
    def overwriting(command: Any, words: tuple[str, ...] = ()) -> set[str]:
        inner = getattr(command, "commands", {})
        found = {" ".join(words)} if any(one.name == "overwrite" for one in command.params) else set()
        return found.union(*(overwriting(one, (*words, name)) for name, one in inner.items()))

    commands = overwriting(typer.main.get_command(build_app()))
    tried = {name for name in commands for line in LINES if line.startswith(f"{name} ")}
    assert commands - NOTHING_TO_LOSE == tried


def test_a_page_beside_its_models_may_be_drawn_again(here: Path) -> None:
    from genepool.own_inputs import refuse_own_input

    (here / "all" / "t0" / "page.html").write_text("a page")
    refuse_own_input("all/t0/page.html", ["all/t0"])
    refuse_own_input("all/t0/merged", ["all/t0", "org/model", "lm-eval:arc", "no+where"])
