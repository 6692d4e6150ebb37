"""A testbed's manifest may come from a stranger: one that is damaged, or leads out of its folder, is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.testbed.folder import FORMAT, MANIFEST, changed_files, read_manifest

WHOLE: dict[str, Any] = {
    "genepool_testbed": FORMAT,
    "digest": "d",
    "settings": {"skills": ["reverse"], "bed": "text"},
    "models": {"base": {"steps": 1, "scores": {"reverse": 0.5}}},
    "files": {"base/config.json": "a" * 64},
}


def damaged(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(WHOLE))
    change(data)
    return data


@pytest.mark.parametrize(
    "manifest",
    [
        damaged(lambda data: data.update(digest=5)),
        damaged(lambda data: data.update(settings=[])),
        damaged(lambda data: data["settings"].update(skills=["../../precious"])),
        damaged(lambda data: data["settings"].update(skills="reverse")),
        damaged(lambda data: data.update(files={"../precious": "a" * 64})),
        damaged(lambda data: data.update(files={"/dev/zero": "a" * 64})),
        damaged(lambda data: data.update(files={"base/config.json": "short"})),
        damaged(lambda data: data["models"]["base"].update(scores={"reverse": -5})),
        damaged(lambda data: data["models"].update(base=7)),
        damaged(lambda data: data.pop("models")),
        [],
    ],
)
def test_a_damaged_manifest_is_none(tmp_path: Path, manifest: Any) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(WHOLE))
    assert read_manifest(tmp_path) == WHOLE
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) is None


def test_what_is_no_file_is_changed(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert changed_files(tmp_path, {"endless": "a" * 64, "nowhere": "a" * 64}) == ["endless", "nowhere"]
