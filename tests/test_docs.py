"""The documentation holds together: generated pages are the code's, links and anchors lead somewhere, every page is in
the site, and what pages list (formats, old names) is what the code has."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.syspath_prepend(DOCS / "reference")
    return importlib.import_module("generate").pages()


def test_generated_pages_are_those_of_the_code(generated: dict[str, str]) -> None:
    stale = [name for name, text in generated.items() if (DOCS / "reference" / name).read_text() != text]
    assert not stale, f"{stale}: run `python docs/reference/generate.py`"
    left = {f"python/{path.name}" for path in (DOCS / "reference" / "python").iterdir()} - set(generated)
    assert not left, f"{left}: nothing writes them any more"


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings that GitHub and the site agree on."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCED.sub("", page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        kept = re.sub(r"[^\w\s-]", "", plain).strip()
        if (github := kept.replace(" ", "-")) == re.sub(r"[-\s]+", "-", kept):
            found.add(github)
    return found


def _links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of every link to a place of this repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for path, anchor in _links(page):
        target = page.parent / path if path else page
        assert target.exists(), f"links to {path}"
        assert not anchor or anchor in _anchors(target), f"{path} has no heading #{anchor}"


def _in_nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _in_nav(inner)


def test_every_page_is_in_the_site() -> None:
    named = list(_in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    hooks = (DOCS / "site_hooks.py").read_text()
    from_the_top = dict(re.findall(r'"(\w+\.md)": "(\w+\.md)"', hooks))
    assert set(from_the_top) == {path.name for path in TOP} - {"README.md"}
    assert sorted(named) == sorted(
        {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | set(from_the_top.values())
    )


def test_old_names_of_options_are_listed() -> None:
    """With what they are called now, as long as they work."""
    rows = re.findall(
        r"^\| `([\w ]+) (--[\w-]+)` \| `(--[\w-]+)` \|$", (DOCS / "versions.md").read_text(), re.MULTILINE
    )
    known = []
    for path in sorted((ROOT / "src" / "genepool" / "cli").rglob("*.py")):
        if "OLD_SPELLINGS = " in path.read_text():
            words = path.relative_to(ROOT / "src" / "genepool" / "cli").with_suffix("").parts
            module = importlib.import_module(".".join(("genepool.cli", *words)))
            known += [(" ".join(words), old, new) for old, new in module.OLD_SPELLINGS.items()]
    assert sorted(rows) == sorted(known)


FORMATS = {
    "study.sqlite": "genepool.evolution.store:FORMAT",
    "study": "genepool.evolution.study_file:STUDY_VERSION",
    "recipe": "genepool.merging.recipe:RECIPE_VERSION",
    "skill file": "genepool.weights.header:VERSION",
    "run.sqlite": "genepool.training.journal:FORMAT",
    "ledger": "genepool.tasks.ledger:VERSION",
    "catalogue.sqlite": "genepool.skills.catalogue:VERSION",
    "manifest.json": "genepool.testbed.folder:FORMAT",
}


def test_the_versions_of_formats_are_the_codes() -> None:
    rows = re.findall(
        r"^\| `?([\w. ]+?)`? \|[^|]*\| (\d+) \|", (DOCS / "reference" / "files.md").read_text(), re.MULTILINE
    )
    told = {name: int(number) for name, number in rows}
    for name, place in FORMATS.items():
        module, constant = place.split(":")
        assert told.pop(name) == getattr(importlib.import_module(module), constant), name
    # The rest carry `"schema": 1` or a Literal[1].
    assert set(told.values()) == {1}


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


# ---------------------------------------------------------------------- the site


def _build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_site_builds_and_a_broken_link_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`; `make docs` installs it")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the site needs the extra `docs`")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "mkdocs.yml", *TOP):
        shutil.copy(path, tmp_path)
    built = _build(tmp_path, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    # The reference of the site is mkdocstrings', and what stood below its mark is gone.
    page = (tmp_path / "site" / "reference" / "python" / "genepool.merging.html").read_text()
    assert 'id="genepool.merging.Recipe"' in page
    assert "mkdocstrings:" not in page
    assert (tmp_path / "site" / "contributing.html").is_file()
    for wrong in ("[nowhere](nowhere.md)", "[no heading](glossary.md#nowhere)", "![far](https://example.org/far.png)"):
        (tmp_path / "docs" / "index.md").write_text(f"# genepool\n\n{wrong}\n")
        assert _build(tmp_path, tmp_path / "broken").returncode != 0, wrong
