"""Registries find the classes of a folder: those that are made there, can be made, and are of the kind."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from genepool.folder_classes import classes_of

FILES = {
    "__init__": "from abc import ABC, abstractmethod\nclass Door(ABC):\n    @abstractmethod\n    def open(self): ...\n",
    "b": "from doors_of_a_test import Door\nclass Late(Door):\n    def open(self): ...\nclass Other: ...\nnumber = 3\n",
    "a": "from doors_of_a_test import Door\nfrom doors_of_a_test.b import Late\n"
    "class Half(Door): ...\nclass Second(Door):\n    def open(self): ...\nclass First(Second): ...\n",
}


def test_only_own_whole_classes_of_the_kind_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "doors_of_a_test"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    door = importlib.import_module("doors_of_a_test").Door
    # File by file, as they stand there; `Late` belongs to its own file alone, `Half` cannot be made.
    assert [one.__name__ for one in classes_of("doors_of_a_test", door)] == ["Second", "First", "Late"]
