"""What the commands of the harness work on: models, recipes, skills, tasks, libraries, ledgers and a finished study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.evolution import evolve_world

_RECIPES = {
    "linear": {
        "method": "linear",
        "models": [{"model": "skills/a", "parameters": {"weight": 0.3}}, {"model": "skills/b"}],
    },
    "ties": {"method": "ties", "models": ["skills/a", "skills/b"], "parameters": {"density": 0.4}},
    "dare": {"method": "dare_ties", "models": ["skills/a", "skills/b"], "parameters": {"density": 0.5}, "seed": 3},
}
_BRED = {"strategy": {"name": "genome", "options": {"population": 4}}, "finalists": 2}
# How everything else is made from models and tasks: by commands, in this order.
_MADE = """
skill extract skills/a --base base --out a.safetensors --name a
skill extract skills/b --base base --out b.safetensors --name b
skill extract skills/a --base base --rank 4 --out low.safetensors --name low
skill convert low.safetensors --base base --to peft --out adapter
library init --library library
library init --library empty
library add a.safetensors --library library --tag letters --score pick=0.5
library add b.safetensors --library library
library export a --library library --out exported
evaluate base skills/a --tasks tasks --ledger genepool.sqlite
evaluate base skills/b --tasks tasks --ledger other.sqlite
outcomes export outcomes.jsonl --ledger other.sqlite
evolve study.yaml --out run --budget 8 --ledger genepool.sqlite
evolve bred.yaml --out bred --budget 8 --ledger genepool.sqlite
"""


def build(folder: Path, run: Callable[[str], None]) -> Path:
    """Writes all of it into `folder`; `run` runs a command line there."""
    # Weights far apart, so that models write this and that.
    evolve_world.build_world(folder, hidden_size=64, intermediate_size=128, initializer_range=0.6)
    for name, recipe in _RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"genepool": 1, "base": "base", **recipe}))
    bred = {key: value for key, value in evolve_world.STUDY.items() if key not in ("method", "parameters", "search")}
    (folder / "bred.yaml").write_text(yaml.safe_dump({**bred, **_BRED}))
    for line in _MADE.strip().splitlines():
        run(line)
    _write_task(folder)
    _own_tasks(folder)
    _write_loops(folder)
    _break_library(folder)
    return folder


def _write_task(folder: Path) -> None:
    """`written/`: a task that `b` is good for, made of what it wrote."""
    asked = [json.loads(line) for line in (folder / "tasks" / "say" / "test.jsonl").read_text().splitlines()]
    known = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    wrote = {line["id"]: line["output"] for line in known if line["task"] == "say" and line["model"] == "skills/b"}
    lines = [{"id": line["id"], "prompt": line["prompt"], "answer": wrote[line["id"]]} for line in asked]
    (folder / "written").mkdir()
    (folder / "written" / "valid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _own_tasks(folder: Path) -> None:
    """`owned/`: tasks that are called like the skills, with a split to learn from."""
    for skill, task in (("a", "say"), ("b", "pick")):
        place = folder / "owned" / skill
        shutil.copytree(folder / "tasks" / task, place)
        if not (place / "train.jsonl").is_file():
            shutil.copy(place / "valid.jsonl", place / "train.jsonl")


# One loop for each way in which a loop makes its own data; all of them train, so that a kill may meet a training too.
_TRAIN: dict[str, Any] = {"steps": 3, "learning_rate": 0.001}
_PREFER: dict[str, Any] = {"of": "pairs", "objective": "dpo", "steps": 2}
_LOOPS: dict[str, list[dict[str, Any]]] = {
    "samples": [
        {"draw": {"count": 6}}, {"sample": {"samples": 3}}, {"select": {"by": "all"}}, {"train": _TRAIN},
        {"measure": {"count": 4, "others": 0}},
    ],
    "pairs": [{"draw": {"count": 8}}, {"sample": {"samples": 4}}, {"pair": {}}, {"train": _PREFER}],
    "refined": [
        {"draw": {"count": 6}}, {"sample": {"samples": 1}},
        {"refine": {"template": "{prompt}{answer};", "at_least": 0}},
        {"train": {"of": "refinements", **_TRAIN}},
    ],
    "self-play": [
        {"sample": {"samples": 3, "reward": "majority"}}, {"select": {"by": "all"}}, {"train": _TRAIN},
        {"evolve": {"template": "{prompt}", "into": "{text}="}},
    ],
    "reliable": [
        {"draw": {"count": 8}}, {"sample": {"samples": 4}}, {"pair": {}}, {"pair": {"to": "known"}},
        {"reliable": {"steps": 3, "passes": 2, "easy": 1}}, {"train": {**_PREFER, "of": "reliable"}},
    ],
    "search": [
        {"draw": {"count": 4}}, {"search": {"step": "e", "nodes": 4, "depth": 2, "width": 2}},
        {"process": {"step": "e", "steps": 3}}, {"select": {"of": "judged"}}, {"train": _TRAIN},
    ],
}  # fmt: skip


def _write_loops(folder: Path) -> None:
    """`loops/`: a file for each kind of loop, and the task that they learn, of which half of the answers are right."""
    place = folder / "loops" / "say"
    shutil.copytree(folder / "tasks" / "say", place)
    shutil.copy(place / "valid.jsonl", place / "train.jsonl")
    for name, stages in _LOOPS.items():
        first = {"first": [{"draw": {"count": 6}}]} if name == "self-play" else {}
        told = {"loop": 1, "base": "../base", "tasks": ["say"], "rounds": 1, "lora": {"rank": 2}, "test": 4, **first}
        told |= {"training": {"batch": 4, "every": 2}, "round": stages}
        (folder / "loops" / f"{name}.yaml").write_text(yaml.safe_dump(told))


def _break_library(folder: Path) -> None:
    """`broken/`: a library with a copy that was never finished, a skill that no row names, and a damaged one."""
    shutil.copytree(folder / "library", folder / "broken")
    files = folder / "broken" / "files"
    (files / "1-00.partial").write_bytes(b"cut o")
    shutil.copy(folder / "low.safetensors", files / "low.safetensors")
    damaged = min(files.glob("??/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
