"""A world that a tiny model learns within seconds: copying letters, beside another task that it may forget."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "tasks"))

from tiny_models import write_classifier, write_model
from training_runs import QUICK

LETTERS = "abcdefgh"
COUNTS = {"train": 48, "valid": 12, "test": 16}


def write_task(folder: Path, name: str, answer: dict[str, str]) -> Path:
    """A task of two letters in, one letter out; splits share no prompt."""
    place = folder / name
    place.mkdir(parents=True)
    prompts = [f"{name[0]}{one}{two}=" for one in LETTERS for two in LETTERS]
    order = sorted(prompts, key=lambda prompt: hash_of(prompt))
    start = 0
    for split, count in COUNTS.items():
        rows = order[start : start + count] if split != "test" else order[-count:]
        start += count
        lines = [
            json.dumps({"id": f"{split}-{number}", "prompt": prompt, "answer": answer[prompt[1]]})
            for number, prompt in enumerate(rows)
        ]
        (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\n")
    return place


def write_pairs(folder: Path) -> Path:
    """The task `first` as pairs: the right letter against the next one of the alphabet."""
    folder.mkdir(parents=True)
    prompts = sorted((f"f{one}{two}=" for one in LETTERS for two in LETTERS), key=hash_of)
    lines = [
        {"prompt": prompt, "chosen": prompt[1], "rejected": LETTERS[(LETTERS.index(prompt[1]) + 1) % len(LETTERS)]}
        for prompt in prompts
    ]
    parts = {"train": lines[:40], "valid": lines[40:52], "test": lines[52:]}
    for split, rows in parts.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\n")
    return folder


def hash_of(text: str) -> int:
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, other/ (another base), classifier/ (of the answers of both tasks), tasks/{first, grade}, pairs/first."""
    world = tmp_path_factory.mktemp("training")
    changes = {"initializer_range": 0.1, "hidden_size": 32, "intermediate_size": 48}
    write_model(world / "base", **changes)
    write_model(world / "other", seed=1, **changes)
    write_classifier(world / "classifier", labels=(*LETTERS, *map(str, range(len(LETTERS)))))
    write_task(world / "tasks", "first", {letter: letter for letter in LETTERS})
    write_pairs(world / "pairs" / "first")
    write_task(world / "tasks", "grade", {letter: str(at) for at, letter in enumerate(LETTERS)})
    return world


@pytest.fixture(scope="session")
def half_known(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that answers a half of the task `first`."""
    from genepool.training import Training, run_training

    folder = tmp_path_factory.mktemp("half")
    recipe = Training(
        base=str(small_world / "base"), tasks=(str(small_world / "tasks" / "first"),), steps=60, every=20, patience=0,
        learning_rate=0.02, batch=16, test=4,
    )  # fmt: skip
    # No test is running yet, whose own cache this could use.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        run_training(recipe, folder / "run", ledger=folder / "ledger.sqlite")
    return f"{small_world / 'base'}+{folder / 'run' / 'adapter'}"


@pytest.fixture
def train(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`train("run", *options)`: teaches the task `first` to the base."""

    def call(out: str, *options: Any, tasks: Any = None) -> Any:
        named = [small_world / "tasks" / "first"] if tasks is None else tasks
        return cli("train", *named, "--base", small_world / "base", "--out", tmp_path / out, *QUICK, *options)

    return call


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[..., Path]:
    """`labelled()`: the pairs in lines of a prompt, a completion and its label; turned, right letters are bad."""

    def write(turned: bool = False) -> Path:
        folder = write_pairs(tmp_path / "labels" / "first")
        for file in folder.glob("*.jsonl"):
            pairs = [json.loads(line) for line in file.read_text().splitlines()]
            lines = [
                {"prompt": pair["prompt"], "completion": pair[side], "label": (side == "chosen") != turned}
                for pair in pairs
                for side in ("chosen", "rejected")
            ]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return write
