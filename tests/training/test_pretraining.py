"""Training on plain text, with a share of old text, and merging what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from training_runs import told

OLD, NEW = "abcd", "efgh"


def write_corpus(folder: Path, letters: str, seed: int) -> Path:
    """Texts in which every letter is followed by the next one of its alphabet, around and around."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for split, count in (("train", 40), ("valid", 8), ("test", 16)):
        starts = generator.integers(len(letters), size=count)
        texts = ["".join(letters[(start + at) % len(letters)] for at in range(16)) for start in starts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder / "texts" / "old", OLD, 0)
    write_corpus(folder / "texts" / "new", NEW, 1)
    return folder


def trained(cli: Callable[..., Any], base: object, out: Path, tasks: list[Path], **keys: Any) -> dict[str, Any]:
    recipe = {
        "train": 1, "base": str(base), "tasks": [str(task) for task in tasks], "form": "full", "steps": 30,
        "every": 10, "batch": 8, "learning_rate": 0.01, **keys,
    }  # fmt: skip
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe))
    answer = cli("train", file, "--out", out, "--quiet")
    assert answer.code == 0, answer.err
    return told(out)


def test_a_lone_text_file_is_split_and_learned(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    # Around the alphabet from any letter, and longer or shorter.
    texts = ["".join("abcdefg"[(start + at) % 7] for at in range(size)) for start in range(7) for size in range(8, 20)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"content": text}) + "\n" for text in texts))
    refused = cli("train", tmp_path / "corpus.jsonl", "--base", small_world / "base", "--out", tmp_path / "run")
    assert "corpus.jsonl:1: unknown key 'content'" in refused.err
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    said = trained(cli, small_world / "base", tmp_path / "run", [tmp_path / "corpus.jsonl"], batch=4)
    (row,) = said["target"]
    assert row["after"] > row["before"] + 0.2
    assert said["examples"]["train"] > 50


@pytest.mark.slow
def test_a_share_of_old_text_keeps_it_and_the_result_can_be_merged(
    cli: Callable[..., Any], small_world: Path, corpora: Path, tmp_path: Path
) -> None:
    texts = corpora / "texts"
    trained(cli, small_world / "base", tmp_path / "first", [texts / "old"], others=str(texts / "old"))
    base = f"{small_world / 'base'}+{tmp_path / 'first' / 'skill.safetensors'}"
    after = {}
    for share in (0.0, 0.5):
        shares = {"old": share, "new": 1 - share}
        said = trained(cli, base, tmp_path / f"s{share}", [texts / "old", texts / "new"], shares=shares)
        after[share] = {row["task"]: row["after"] for row in said["target"]}
        assert set(said["drawn"]) == ({"old", "new"} if share else {"new"})
    assert after[0.5]["old"] > after[0.0]["old"] + 0.1
    assert after[0.5]["new"] > 0.8
    # What was learned from text is a skill, which a recipe puts beside another one.
    recipe = {
        "genepool": 1, "method": "task_arithmetic", "base": base, "dtype": "float32",
        "models": [{"model": f"{base}+{tmp_path / 's0.0' / 'skill.safetensors'}", "parameters": {"weight": 0.5}}],
    }  # fmt: skip
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("merge", tmp_path / "merge.yaml", tmp_path / "merged", "--quiet")
    assert answer.code == 0, answer.err
    answer = cli("evaluate", tmp_path / "merged", "--tasks", texts, "--ledger", tmp_path / "l", "--json", "--quiet")
    merged = {row["task"]: row["mean"] for row in json.loads(answer.out)["results"]}
    assert merged["old"] > after[0.0]["old"]


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def bed(tiny_testbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny testbed under the names that recipes use, with few examples and two folders of texts."""
    (tmp_path / "base").symlink_to(tiny_testbed.folder / "base")
    for file in tiny_testbed.tasks.rglob("*.*"):
        place = tmp_path / "tasks" / file.relative_to(tiny_testbed.tasks)
        place.parent.mkdir(parents=True, exist_ok=True)
        kept = 256 if file.stem == "train" else 8
        place.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
    for name, task in (("new", "reverse"), ("old", "generic")):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            rows = map(json.loads, (tmp_path / "tasks" / task / f"{split}.jsonl").read_text().splitlines())
            texts = [json.dumps({"text": row["prompt"] + row["answer"]}) for row in rows]
            (tmp_path / "texts" / name / f"{split}.jsonl").write_text("\n".join(texts))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_recipe_of_continued_pretraining_runs(cli: Callable[..., Any], bed: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "continued_pretraining.yaml").read_text())
    (bed / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "steps": 8, "every": 4, "batch": 8}))
    answer = cli("train", bed / "recipe.yaml", "--out", bed / "read", "--quiet")
    assert answer.code == 0, answer.err
    said = told(bed / "read")
    assert {row["task"] for row in said["target"]} == {"new", "old"}
    assert {row["task"] for row in said["others"]} == {"caesar", "generic", "reverse", "sort", "upper"}
    assert said["drawn"]["new"] > said["drawn"]["old"] > 0


@pytest.mark.slow
def test_the_recipe_of_the_dual_stage_mix_runs(cli: Callable[..., Any], bed: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "dual_stage_mix.yaml").read_text())
    for part in ("first", "round"):
        recipe[part][0]["train"]["steps"] = 4
    (bed / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "training": {"batch": 16, "every": 4}}))
    answer = cli("train", bed / "recipe.yaml", "--out", bed / "mixed", "--quiet")
    assert answer.code == 0, answer.err
    first, second = sorted((bed / "mixed" / "stages").glob("*/run"))
    assert set(told(first)["drawn"]) == {"reverse", "sort", "upper", "caesar"}
    # All of the general task, and one example of each of the others: 1 of 256.
    assert told(second)["examples"]["train"] == 256 + 4
