"""What the tests of trainings read out of a run's folder, and how short a training they type."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

QUICK = ("--steps", 40, "--every", 10, "--learning-rate", 0.02, "--batch", 16, "--quiet")


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "train.json").read_text()))


def result_bytes(folder: Path) -> bytes:
    file = folder / "adapter" / "adapter_model.safetensors"
    return (file if file.is_file() else folder / "skill.safetensors").read_bytes()


def rows(folder: Path, query: str) -> list[Any]:
    with sqlite3.connect(folder / "run.sqlite") as database:
        return database.execute(query).fetchall()
