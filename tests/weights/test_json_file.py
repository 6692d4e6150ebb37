"""JSON files beside weights are read in bounded work, and what is wrong with one is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genepool.errors import InputError
from genepool.weights import json_file
from genepool.weights.json_file import read_json, read_json_value


def test_any_value_is_read_and_an_object_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"path": "\u00e9"}]', encoding="utf-8")
    assert read_json_value(tmp_path / "modules.json") == [{"path": "\u00e9"}]
    with pytest.raises(InputError, match="is not a JSON object"):
        read_json(tmp_path / "modules.json")


def test_only_a_regular_file_of_a_possible_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text('{"a": 1}')
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "bytes").write_bytes(b"\xff")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="is not a regular file"):
            read_json(path)
    for name in ("deep", "bytes"):
        with pytest.raises(InputError, match="is not valid JSON"):
            read_json(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "nowhere")
    monkeypatch.setattr(json_file, "MOST_BYTES", 7)
    with pytest.raises(InputError, match="holds more than 7 bytes"):
        read_json(tmp_path / "large")
