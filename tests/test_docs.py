"""The documentation tells the truth: generated pages are up to date, and the README's code runs as it stands."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _generator() -> object:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "reference" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_those_of_the_code() -> None:
    for name, text in _generator().pages().items():
        assert (ROOT / "docs" / "reference" / name).read_text() == text, f"{name} is stale: run `make docs`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_readmes_python_runs(
    tmp_path: Path, tiny_testbed: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # The testbed of the tests is the one the README would train.
    (tmp_path / "bed").symlink_to(tiny_testbed.folder)
    exec(compile(code, "README.md", "exec"), {})
    scores, genome = capsys.readouterr().out.splitlines()
    assert "'reverse': (" in scores
    assert "reverse.weight" in genome
    assert (tmp_path / "run" / "winner" / "model.safetensors").is_file()
