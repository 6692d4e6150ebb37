"""Recipes: both dialects, every misspelling caught, and values that vary over the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.merging import Parameter, Recipe, load_recipe, parse_recipe
from genepool.merging.parameters import Site, check_value, interpolate, resolve

WEIGHT = Parameter("weight", 1.0, "", per_model=True)
OURS: dict[str, Any] = {"genepool": 1, "method": "ties", "base": "b", "models": ["x", "y"]}
THEIRS: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "b",
    "models": [{"model": "x", "parameters": {"weight": 1.0}}],
}


def site(
    name: str = "model.layers.2.mlp.up_proj.weight", part: str = "mlp", layer: int | None = 2, at: float = 0.5
) -> Site:
    return Site(name, part, layer, at)


# ---------------------------------------------------------------------- misspellings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modelz": []}, "unknown key 'modelz'. Did you mean 'models'?"),
        ({"method": "tise"}, "unknown merge method 'tise'. Did you mean 'ties'?"),
        ({"parameters": {"densty": 0.5}}, "ties has no parameter 'densty'. Did you mean 'density'?"),
        ({"parameters": {"density": 1.5}}, "density is out of range, got 1.5. Give a value from 0 to 1."),
        ({"parameters": {"density": -0.1}}, "got -0.1"),
        ({"parameters": {"density": [0.1, 3]}}, "parameters.density[1]: density is out of range, got 3"),
        ({"parameters": {"density": "half"}}, "density must be a number, got 'half'"),
        ({"parameters": {"density": float("nan")}}, "density must be a number"),
        ({"parameters": {"density": []}}, "an empty list"),
        ({"parameters": {"density": [{"role": "mpl", "value": 1}]}}, "unknown role 'mpl'. Did you mean 'mlp'?"),
        ({"parameters": {"density": [{"fliter": "a", "value": 1}]}}, "unknown key 'fliter'. Did you mean 'filter'?"),
        ({"parameters": {"density": [{"filter": "a"}]}}, "the condition has no value"),
        ({"parameters": {"density": [{"layers": [3, 1], "value": 1}]}}, "layers must be [first, last]"),
        ({"parameters": {"density": [{"value": [{"value": 1}]}]}}, "conditions cannot be nested"),
        ({"parameters": {"scope": "modle"}}, "scope cannot be 'modle'. Did you mean 'model'?"),
        ({"parameters": {"normalize": "maybe"}}, "normalize must be true or false"),
        ({"models": [{"model": "x", "parameters": {"lambda": 1}}]}, "'lambda' holds for the whole merge"),
        ({"models": [{"model": "x", "wieght": 1}]}, "unknown key 'wieght'"),
        ({"models": []}, "the list of models is empty"),
        ({"slices": []}, "one of `models`, `slices` and `modules`"),
        ({"base": None}, "ties needs a base"),
        ({"dtype": "float8"}, "dtype"),
        ({"genepool": 2}, "genepool"),
    ],
)
def test_our_recipes_are_checked_to_the_last_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe({**OURS, **change}, where="r.yaml").checked()
    assert said in str(caught.value)
    assert str(caught.value).startswith("r.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokeniser_source": "base"}, "Did you mean 'tokenizer_source'?"),
        ({"merge_method": "tiess"}, "Did you mean 'ties'?"),
        ({"parameters": {"densiti": 1}}, "Did you mean 'density'?"),
        ({"models": [{"model": "x"}]}, "x has no weight"),
        ({"models": [{"model": 3, "parameters": {"weight": 1}}]}, "expected the name of a model"),
        ({"dtype": "int8"}, "Write one of them"),
        ({"chat_template": "chatmll"}, "not a Jinja template"),
    ],
)
def test_mergekits_recipes_are_checked_as_closely(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe({**THEIRS, **change}, where="r.yaml").checked()
    assert said in str(caught.value)


def test_known_keys_without_effect_warn(capsys: pytest.CaptureFixture[str]) -> None:
    parse_recipe({**THEIRS, "parameters": {"int8_mask": True}}, where="r.yaml")
    assert "int8_mask: has no effect on ties" in capsys.readouterr().err


def test_the_same_method_has_the_papers_defaults_here_and_mergekits_there() -> None:
    assert parse_recipe(OURS).parameters == {}
    theirs = parse_recipe(THEIRS).parameters
    assert (theirs["density"], theirs["scope"], theirs["zero_sign"]) == (1.0, "tensor", "positive")


def test_a_recipe_written_out_reads_back_as_the_same(tmp_path: Path) -> None:
    import yaml

    recipe = parse_recipe(
        {**OURS, "parameters": {"density": [{"role": "mlp", "value": 0.3}, {"value": 0.5}]}, "seed": 7}
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(tmp_path / "r.yaml").to_dict() == recipe.to_dict()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("method: [", "is not valid YAML"),
        ("- a\n- b\n", "is not a mapping"),
        ("genepool: 1\nmethod: ties\nmethod: [", "r.yaml:"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert said in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_recipe(tmp_path / "missing.yaml")


def test_the_digest_is_blind_to_paths_and_sees_everything_else() -> None:
    here = parse_recipe(OURS)
    there = parse_recipe({**OURS, "base": "/q/b", "models": ["/q/x", "/q/y"]})
    prints = {"b": "1", "x": "2", "y": "3"}
    moved = {f"/q/{name}": value for name, value in prints.items()}
    assert here.digest(prints) == there.digest(moved)
    assert here.digest(prints) != here.digest({**prints, "x": "9"})
    for change in ({"seed": 1}, {"parameters": {"density": 0.3}}, {"models": ["y", "x"]}, {"method": "dare_ties"}):
        assert parse_recipe({**OURS, **change}).digest(prints) != here.digest(prints)


# ---------------------------------------------------------------------- values over the model


@given(anchors=st.lists(st.floats(-10, 10), min_size=1, max_size=6), position=st.floats(0, 1))
def test_a_gradient_stays_between_its_anchors_and_meets_its_ends(anchors: list[float], position: float) -> None:
    value = interpolate(anchors, position)
    assert min(anchors) - 1e-9 <= value <= max(anchors) + 1e-9
    assert interpolate(anchors, 0.0) == anchors[0]
    assert interpolate(anchors, 1.0) == pytest.approx(anchors[-1])


def test_gradients_by_hand() -> None:
    assert interpolate([0, 1], 0.25) == 0.25
    assert interpolate([0, 1, 5], 0.75) == 3.0
    assert interpolate([True, False], 0.9) is True


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.4, 0.4),
        ("4e-1", 0.4),
        ([0.0, 1.0], 0.5),
        ([{"filter": "up_proj", "value": 0.1}, {"value": 0.2}], 0.1),
        ([{"filter": "q_proj", "value": 0.1}, {"value": 0.2}], 0.2),
        ([{"filter": "*", "value": 0.3}, {"filter": "up_proj", "value": 0.1}], 0.3),
        ([{"role": ["attention", "mlp"], "value": 0.1}], 0.1),
        ([{"role": "mlp", "layers": [0, 1], "value": 0.1}, {"layers": [2, 2], "value": 0.6}], 0.6),
        ([{"filter": "layers.2.", "value": [0.0, 0.5]}], 0.25),
        ({"filter": "up_proj", "value": 0.7}, 0.7),
    ],
)
def test_values_resolve_to_the_first_that_matches(value: Any, expected: float) -> None:
    assert resolve([{"weight": check_value(WEIGHT, value, "")}], WEIGHT, site()) == pytest.approx(expected)


def test_a_level_without_a_match_leaves_it_to_the_next() -> None:
    levels = [{"weight": [{"filter": "q_proj", "value": 9.0}]}, {}, {"weight": 0.5}]
    assert resolve(levels, WEIGHT, site()) == 0.5
    assert resolve(levels[:2], WEIGHT, site()) == 1.0
    assert resolve(levels, WEIGHT, site(layer=None, part="embedding", name="x.q_proj.weight")) == 9.0


def test_recipes_made_in_python_take_paths_and_plain_names() -> None:
    recipe = Recipe(method="linear", base=Path("b"), models=[Path("x"), "y"])
    assert recipe.model_names() == ["b", "x", "y"]
