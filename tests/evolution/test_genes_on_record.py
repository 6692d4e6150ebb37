"""What a study records says of every number what it stands for, and the report takes it from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.evolution import run_study

Cli = Callable[..., Any]
#: A name that could be read as that of a gene.
TRICKY = "a.weight[layers 0-0]"
SPLIT = {"weight": {"low": 0.0, "high": 1.0, "per": {"layer_groups": 2, "roles": ["attention"]}}}


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of two skills, one with a tricky name, over two groups of layers and one role."""
    folder = tmp_path_factory.mktemp("studied")
    one, other = evolve_world.STUDY["skills"]
    study = {
        **evolve_world.STUDY,
        "base": str(world / evolve_world.STUDY["base"]),
        "skills": [{"name": TRICKY, "model": str(world / one)}, {"name": "b", "model": str(world / other)}],
        "tasks": {**evolve_world.STUDY["tasks"], "dir": str(world / "tasks")},
        "search": SPLIT,
        "strategy": {"name": "random_search", "options": {"population": 4}},
        "budget": {"evaluations": 12},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    run_study(folder / "study.yaml", folder / "out", ledger=folder / "ledger.sqlite")
    return folder


@pytest.fixture
def studied(finished: Path, tmp_path: Path) -> Path:
    """A copy of one's own: what it recorded may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "studied")) / "out"


def recipe_of(cli: Cli, out: Path) -> dict[str, Any]:
    answer = cli("report", out, "--out", out.parent / "page.html", "--overwrite", "--json")
    assert answer.code == 0, answer.err
    recipe: dict[str, Any] = json.loads(answer.out)["recipes"][0]
    return recipe


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def test_every_number_says_what_it_stands_for(studied: Path, cli: Cli) -> None:
    best = json.loads((studied / "best.json").read_text())
    for record in (*lines_of(studied), best):
        assert [gene["value"] for gene in record["genes"]] == list(record["genome"].values())
        assert {gene["parameter"] for gene in record["genes"]} == {"weight"}
        assert {gene["skill"] for gene in record["genes"]} == {TRICKY, "b"}
        assert {tuple(gene["layers"]) for gene in record["genes"]} == {(0, 0), (1, 1)}
        assert {gene["role"] for gene in record["genes"]} == {"attention", None}
    drawn = recipe_of(cli, studied)["genes"]
    kept = ("parameter", "skill", "layers", "role", "value")
    assert [{key: gene[key] for key in kept} for gene in drawn] == [{k: g[k] for k in kept} for g in best["genes"]]
    assert all(gene["spread"][0] <= gene["spread"][1] for gene in drawn)


def test_records_with_names_alone_still_open(studied: Path, cli: Cli) -> None:
    structured = recipe_of(cli, studied)
    best = json.loads((studied / "best.json").read_text())
    for lines, path in ((lines_of(studied), studied / "history.jsonl"), ([best], studied / "best.json")):
        for line in lines:
            del line["genes"]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    named = recipe_of(cli, studied)
    ours, theirs = ([gene for gene in one["genes"] if gene["skill"] == "b"] for one in (structured, named))
    assert ours == theirs != []
    assert named["genes"] == structured["genes"], "a name is read from its end"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": [1]}, "genes.0.layers"),
        ({"layers": "0-1"}, "genes.0.layers"),
        ({"value": "much"}, "genes.0.value"),
        ({"skill": 3}, "genes.0.skill"),
    ],
)
def test_genes_that_say_nothing_are_refused(studied: Path, cli: Cli, change: dict[str, Any], said: str) -> None:
    lines = lines_of(studied)
    lines[1]["genes"][0].update(change)
    (studied / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    answer = cli("report", studied, "--quiet")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "history.jsonl: line 2 is not a candidate" in answer.err
    assert said in answer.err
