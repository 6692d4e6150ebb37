"""The demo end to end: it finishes, goes on when run again, and its searches begin at the best static merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.demo.search import can_be_searched, search_from
from genepool.demo.static import static_merges
from genepool.demo.story import STORIES
from genepool.evolution.opened_study import OpenedStudy


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
    # The page opens with what was gained and lost, and so does what is printed.
    assert story["headline"].startswith("The winner of CMA-ES answers ")
    assert " than the best static merge (95% interval " in story["headline"]
    page = (folder / "report.html").read_text()
    assert page.index("</h1>") < page.index(story["headline"][:60]) < page.index('class="summary"')
    quiet = cli("demo", folder, "--tiny", "--budget", "24", "--workers", "1", "--seed", "0", "--quiet", "--json")
    assert first.err
    assert quiet.err == ""
    again = json.loads(quiet.out)
    assert again["results"] == story["results"]
    assert again["evolved_minus"] == story["evolved_minus"]


@pytest.mark.slow
def test_in_the_short_story_one_weight_for_all_loses_what_weights_of_their_own_keep(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    call = ("demo", tmp_path / "demo", "--budget", "36", "--quiet", "--json")
    answer = cli(*call)
    assert answer.code == 0, answer.err
    story = json.loads(answer.out)
    skills = STORIES["short"].skills
    assert skills is not None
    results = story["results"]
    specialists = sum(results[skill][skill] for skill in skills) / len(skills)
    static = sum(results[story["best_static"]][skill] for skill in skills) / len(skills)
    assert static < specialists - 0.05
    # Both searches begin where the best static merge ended, so neither ends below it on what they were chosen by.
    for study in ("evolved", "random"):
        lines = [json.loads(line) for line in (tmp_path / "demo" / study / "history.jsonl").read_text().splitlines()]
        best = json.loads((tmp_path / "demo" / study / "best.json").read_text())
        assert len(lines) == 36
        assert best["fitness"] >= max(lines[0]["fitness"], 0.9) - 0.02
    assert json.loads(cli(*call).out)["results"] == results


@pytest.mark.slow
def test_a_search_begins_at_the_static_merge(tiny_testbed: Any) -> None:
    merges = {merge.name: merge for merge in static_merges(tiny_testbed)}
    assert not can_be_searched(merges["slerp of pairs, t 0.5"])
    per = STORIES["tiny"].per
    for name in (
        "adapters, task_arithmetic lambda 0.4",
        "task_arithmetic lambda 0.7",
        "dare_linear density 0.1, lambda 0.5",
    ):
        study = search_from(merges[name], tiny_testbed, "cma_es", evaluations=60, valid=8, per=per, sigma=0.1, seed=0)
        start = OpenedStudy.open(study, "study").representation.template()
        wanted = merges[name].weights
        assert {*start.names()} == {*wanted.names()}
        for tensor in wanted.names():
            assert torch.allclose(start.read(tensor), wanted.read(tensor), atol=1e-6), (name, tensor)
    # Over the whole vector TIES has one weight for each model: what is searched trims tensor by tensor.
    ties = search_from(
        merges["ties density 0.5, lambda 1"],
        tiny_testbed,
        "cma_es",
        evaluations=60,
        valid=8,
        per=per,
        sigma=0.1,
        seed=0,
    )
    assert ties.vary.settings()["parameters"] == {"density": 0.5, "lambda": 1.0, "scope": "tensor"}
    OpenedStudy.open(ties, "study")


def test_a_story_has_one_size(tmp_path: Path, cli: Callable[..., Any]) -> None:
    refused = cli("demo", tmp_path / "demo", "--tiny", "--full", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--tiny and --full together" in refused.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("loud")
def test_another_seed_is_another_story(tmp_path: Path, tiny_testbed: Any, cli: Callable[..., Any]) -> None:
    shutil.copytree(tiny_testbed.folder, tmp_path / "demo" / "testbed")
    refused = cli("demo", tmp_path / "demo", "--tiny", "--seed", "1", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "built with other settings" in refused.err
    assert not any((tmp_path / "demo").glob("report*"))
