"""Anchors under keys of their own: what stands in a file only to be referred to is no key of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.merging import load_recipe
from genepool.merging.mixture.planning import load_mixture
from genepool.schema import parsed_documents

KEYS = ("models", "parameters", "base")


def read(text: str) -> Any:
    return parsed_documents(text, Path("file.yaml"), KEYS)[0]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x-w: &w 0.5\nparameters: {weight: *w}\n", {"parameters": {"weight": 0.5}}),
        ("all: &all [a, b]\nmodels: *all\n", {"models": ["a", "b"]}),
        # Deep inside, by a merge key, and of one another.
        ("x: {y: [&deep {w: 1}]}\nparameters: {<<: *deep, t: 2}\n", {"parameters": {"w": 1, "t": 2}}),
        ("x: &x {w: 1}\ny: &y {<<: *x, v: 2}\nparameters: *y\n", {"parameters": {"w": 1, "v": 2}}),
        # A key that is known stays, whoever refers to it.
        ("base: &base b\nmodels: [*base]\n", {"base": "b", "models": ["b"]}),
        # So does one that nobody refers to, or only itself, and one that is rather a slip: all are refused later.
        ("x: &x 1\nbase: b\n", {"x": 1, "base": "b"}),
        ("x: [&x 1, *x]\nbase: b\n", {"x": [1, 1], "base": "b"}),
        ("model: &all [a]\nmodels: *all\n", {"model": ["a"], "models": ["a"]}),
    ],
)
def test_keys_that_are_only_referred_to_are_left_out(text: str, left: dict[str, Any]) -> None:
    assert read(text) == left


@pytest.mark.parametrize("own", ["", "genepool: 1\n"])
def test_a_recipe_may_have_them(tmp_path: Path, own: str) -> None:
    method = "method: linear" if own else "merge_method: linear"
    file = tmp_path / "r.yaml"
    file.write_text(
        f"x-same: &same\n  parameters: {{weight: 0.5}}\n{own}{method}\nmodels:\n- {{model: a, <<: *same}}\n"
        "- {model: b, <<: *same}\n"
    )
    recipe = load_recipe(file)
    assert [entry.parameters for entry in recipe.models or []] == [{"weight": 0.5}] * 2
    file.write_text(file.read_text().replace("x-same", "model"))
    with pytest.raises(InputError, match=r"unknown key 'model'. Did you mean 'models'\?|unknown key 'model'"):
        load_recipe(file)


def test_a_mixture_may_have_them(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "ours: &ours {source_model: a}\nbase_model: a\ngate_mode: random\nexperts: [*ours, {source_model: b}]\n"
    )
    assert [expert.source_model for expert in load_mixture(file).experts] == ["a", "b"]


def test_a_study_may_have_them(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "skills-of-all: &all [a, b]\nstudy: 1\nskills: *all\nvary: {kind: mergekit_genome, method: linear}\n"
        "tasks: nowhere\nbudget: {evaluations: 9}\n"
    )
    done = cli("plan", file)
    # The key is no problem; that there are no models is.
    assert done.code == 2
    assert "skills-of-all" not in done.err
