"""The Python of docs/how-to/adapt.md runs as it stands there."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from genepool.adaptation import Adaptation, StreamAdapter, adapter

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "adapt.md"


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_loop_of_the_page_runs(base: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bed" / "streams").mkdir(parents=True)
    (tmp_path / "bed" / "base").symlink_to(base)
    (tmp_path / "bed" / "streams" / "mixed").symlink_to(stream)
    monkeypatch.chdir(tmp_path)
    exec(_blocks()[0], {})
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"state.safetensors", "state.json"}


def test_the_adapter_of_the_page_adapts(base: Path, stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("confident")
    exec(_blocks()[1], vars(module))
    kind: type[StreamAdapter] = vars(module)["Confident"]
    monkeypatch.setattr(adapter, "all_adapters", lambda: {"confident": kind})
    run = Adaptation(base, stream, "confident", rounds=1)
    list(run)
    skill = run.skill()
    assert skill is not None
    assert all("norm" in name for name in skill.names())
