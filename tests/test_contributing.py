"""CONTRIBUTING tells the truth: its examples are put into a copy of the source, and its commands run there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# A block with a file begins with a comment that says which.
FILES = re.findall(r"^```\w+\n(?:#|//|\{#) ([\w./]+)(?: #\})?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^genepool .*$", PAGE, re.MULTILINE)
KINDS = (
    "merging/methods", "evolution/strategies", "tasks/metrics", "tasks/models", "weights/formats",
    "training/objectives", "training/rewards", "weights/adapter_forms", "evolution/representations",
    "report/sections", "cli", "testbed/beds",
)  # fmt: skip
# Runs every command line of stdin in one process, which reads the source once.
_RUN = """
import json, sys
from genepool.cli.main import run
for line in json.load(sys.stdin):
    code = run(line)
    assert code == 0, (code, line)
"""


def _placed(root: Path) -> None:
    for name, text in FILES:
        path = root / name
        assert not path.exists(), f"{name} is there already: the example would hide it"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _bert(folder: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "rome", "is", "in", "france", "italy"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)


def test_there_is_one_example_of_each_kind() -> None:
    """In the folder where that kind is found by being there."""
    folders = [str(Path(name).parent) for name, _ in FILES if name.endswith(".py")]
    assert sorted(folders) == sorted(f"src/genepool/{kind}" for kind in KINDS)
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_examples_are_typed_as_the_package_is(tmp_path: Path) -> None:
    """Every function says what it takes and returns."""
    for name, text in FILES:
        if name.endswith(".py"):
            compile(text, name, "exec")
            for line in re.findall(r"def [^:]+?\)(.*):$", text, re.MULTILINE):
                assert "->" in line, f"{name}: {line}"


@pytest.mark.slow
def test_every_example_works(tiny_testbed: Any, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    _placed(tmp_path)
    (tmp_path / "bed").symlink_to(tiny_testbed.folder)
    shutil.copytree(tiny_testbed.tasks, tmp_path / "tasks")
    for path in (tmp_path / "tasks").rglob("*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    _bert(tmp_path / "bert")
    np.savez(tmp_path / "model.npz", weight=np.ones((3, 2), np.float32), bias=np.zeros(3, np.float16))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "GENEPOOL_LEDGER": "outcomes.sqlite"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps([shlex.split(line)[1:] for line in COMMANDS]),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    assert "106,944 parameters" in said
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "focal" / "train.json").read_text())["objective"] == "focal"
    assert json.loads((tmp_path / "brief" / "train.json").read_text())["samples"]["failed"] == 0
    assert json.loads((tmp_path / "weighed" / "best.json").read_text())["vary"] == "skill_weights"
    assert "0 of 8 candidates failed." in (tmp_path / "report.md").read_text()
    assert (tmp_path / "ciphers" / "full" / "caesar" / "model.safetensors").is_file()
