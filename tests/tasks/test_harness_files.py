"""Task files of lm-eval are found in a folder of a stranger's, in bounded work."""

from __future__ import annotations

from pathlib import Path

import pytest

from genepool.errors import InputError
from genepool.tasks import harness_files
from genepool.tasks.harness_files import find_task_file


def test_a_file_is_found_by_the_task_it_defines(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    for name, text in (("x.yaml", "tag: far\ntask: 'far'  # it\n"), ("y.yml", "task: farther\n"), ("z.txt", "task: z")):
        (below / name).write_text(text)
    assert find_task_file(tmp_path, "far") == below / "x.yaml"
    assert find_task_file(tmp_path, "farther") == below / "y.yml"
    assert find_task_file(tmp_path, "z") is None


def test_neither_large_files_nor_many_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_files, "_MOST_BYTES", 20)
    (tmp_path / "large.yaml").write_text("#" * 20 + "\ntask: late\n")
    (tmp_path / "small.yaml").write_text("task: early\n" + "#" * 20)
    assert find_task_file(tmp_path, "late") is None
    assert find_task_file(tmp_path, "early") == tmp_path / "small.yaml"
    monkeypatch.setattr(harness_files, "_MOST_FILES", 1)
    with pytest.raises(InputError, match="holds more than 1 YAML files. Name the folder that holds early"):
        find_task_file(tmp_path, "early")
