"""The demo end to end on the tiny testbed: it finishes, goes on when run again, and its table is its ledger's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_whole_story(tmp_path: Path, tiny_testbed: Any, cli: Callable[..., Any]) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(tiny_testbed.folder, folder / "testbed")
    first = cli("demo", folder, "--tiny", "--budget", "24", "--workers", "1", "--json")
    assert first.code == 0, first.err
    story = json.loads(first.out)
    assert {"base", "evolved", "random", "reverse", "linear"} <= set(story["results"])
    assert all(0 <= score <= 1 for row in story["results"].values() for score in row.values())
    # A merge of four specialists knows more of the four skills than any one of them.
    skills = ("reverse", "sort", "upper", "caesar")
    means = {model: sum(row[skill] for skill in skills) / 4 for model, row in story["results"].items()}
    assert means["evolved"] > max(means[skill] for skill in skills) + 0.2
    page = (folder / "report.html").read_text()
    assert "evolved" in page or "CMA-ES" in page
    quiet = cli("demo", folder, "--tiny", "--budget", "24", "--workers", "1", "--seed", "0", "--quiet", "--json")
    assert first.err
    assert quiet.err == ""
    again = json.loads(quiet.out)
    assert again["results"] == story["results"]
    assert again["evolved_minus"] == story["evolved_minus"]


@pytest.mark.usefixtures("loud")
def test_another_seed_is_another_story(tmp_path: Path, tiny_testbed: Any, cli: Callable[..., Any]) -> None:
    shutil.copytree(tiny_testbed.folder, tmp_path / "demo" / "testbed")
    refused = cli("demo", tmp_path / "demo", "--tiny", "--seed", "1", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "built with other settings" in refused.err
    assert not any((tmp_path / "demo").glob("report*"))
