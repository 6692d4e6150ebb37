"""Code and pickles that a study names are opened only when the command line allows them by their own flags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

TASKS = """
from pathlib import Path
from genepool.tasks import generated_task
Path(__file__).with_name("ran").touch()
def draw(generator):
    letter = "abcdefgh"[int(generator.integers(8))]
    return {"prompt": f"{letter}{int(generator.integers(90))}=", "answer": "i"}
letters = generated_task("letters", draw, counts={"valid": 8, "test": 8})
"""


@pytest.fixture(scope="module")
def coded(world: Path) -> Path:
    """A study whose task is a Python file and whose skill is a pickle."""
    (world / "tasks.py").write_text(TASKS)
    shutil.copytree(world / "skills" / "a", world / "skills" / "pickled")
    import torch
    from safetensors.torch import load_file

    weights = world / "skills" / "pickled" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    study = {
        **evolve_world.STUDY,
        "skills": ["skills/pickled", "skills/b"],
        "tasks": {"dir": "tasks.py"},
        "strategy": {"name": "random_search", "options": {"population": 2}},
        "budget": {"evaluations": 4},
    }
    (world / "coded.yaml").write_text(yaml.safe_dump(study))
    return world


@pytest.mark.slow
def test_a_study_that_names_code_and_pickles(coded: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    study, out, code = coded / "coded.yaml", tmp_path / "run", coded / "tasks.py"
    trusted, pickles = ("--trust-tasks", code), ("--allow-pickle",)
    for command in (("plan", study), ("evolve", study, "--out", out)):
        for flags, said in ((trusted, "--allow-pickle"), (pickles, f"pass --trust-tasks {code}")):
            answer = cli(*command, *flags, "--quiet")
            assert (answer.code, answer.out) == (2, ""), answer
            assert answer.err.count("\n") == 1
            assert said in answer.err
        assert not (coded / "ran").exists()
        assert not out.exists()
        answer = cli(*command, *trusted, *pickles, "--workers", 2 if command[0] == "evolve" else 1, "--json")
        assert answer.code == 0, answer.err
        (coded / "ran").unlink()
    assert json.loads(answer.out)["models"][-1]["test"].keys() == {"letters"}

    write = ("collection", out, "--write", "winner", "--out", tmp_path / "model", "--quiet")
    for flags, said in (((), "--allow-pickle"), (trusted, "--allow-pickle"), (pickles, "--trust-tasks")):
        answer = cli(*write, *flags)
        assert (answer.code, said in answer.err) == (2, True)
    assert not (coded / "ran").exists()
    assert cli(*write, *trusted, *pickles).code == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    (coded / "ran").unlink()

    plain, whole = (cli("report", out, *flags, "--json") for flags in ((), trusted))
    assert (plain.code, whole.code) == (0, 0)
    assert f"--trust-tasks {code}" in plain.err
    assert "--trust-tasks" not in whole.err
