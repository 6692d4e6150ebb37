"""A merge as an input of a merge: equal to merging in steps through the disk, without the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.merging import Recipe, load_recipe, plan_merge, run_plan
from genepool.merging.plan import Plan
from genepool.weights import Weights, open_weights

LAYERS = 4
SLERP = {"method": "slerp", "base": "x", "models": ["y"], "parameters": {"t": 0.3}}


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    base = torch.Generator().manual_seed(0)
    own = torch.Generator().manual_seed(seed)
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS))]
    return {
        name: torch.randn(6, 6, generator=base) + (0.1 * torch.randn(6, 6, generator=own) if seed else 0)
        for name in names
    }


@pytest.fixture
def models(save_model: Callable[..., Path]) -> dict[str, Path]:
    config = {"num_hidden_layers": LAYERS, "tie_word_embeddings": True}
    return {name: save_model(name, _tensors(seed), **config) for seed, name in enumerate(["base", "x", "y", "z"])}


def _write(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def _plan(path: Path, data: dict[str, Any]) -> Plan:
    return plan_merge(load_recipe(_write(path, {"genepool": 1, **data})))


def _same(one: Weights, other: Weights) -> None:
    assert set(one.names()) == set(other.names())
    for name in one.names():
        torch.testing.assert_close(one.read(name), other.read(name), rtol=0, atol=0)


@pytest.fixture
def in_steps(tmp_path: Path, models: dict[str, Path]) -> Weights:
    """TIES of a slerp and z, the slerp written to the disk first."""
    run_plan(_plan(tmp_path / "step.yaml", SLERP), tmp_path / "stepped")
    return _plan(tmp_path / "outer.yaml", {"method": "ties", "base": "base", "models": ["stepped", "z"]}).weights()


def test_a_recipe_in_place_equals_merging_in_steps(tmp_path: Path, in_steps: Weights) -> None:
    for entry in ({"model": SLERP}, SLERP, {"model": SLERP, "parameters": {"density": 0.2}}):
        plan = _plan(tmp_path / "r.yaml", {"method": "ties", "base": "base", "models": [entry, "z"]})
        assert list(plan.recipe.recipes) == ["slerp(x, y)"]
        _same(plan.weights(), in_steps)


def test_a_recipe_file_equals_merging_in_steps_and_its_paths_are_its_own(tmp_path: Path, in_steps: Weights) -> None:
    inner = {"method": "slerp", "base": "../../x", "models": ["../../y"], "parameters": {"t": 0.3}}
    _write(tmp_path / "parts" / "deep" / "inner.yaml", {"genepool": 1, **inner})
    _write(tmp_path / "parts" / "via.yml", {"genepool": 1, "method": "passthrough", "models": ["deep/inner.yaml"]})
    for name in ("parts/deep/inner.yaml", "parts/via.yml"):
        plan = _plan(tmp_path / "r.yaml", {"method": "ties", "base": "base", "models": [name, "z"]})
        _same(plan.weights(), in_steps)


def test_a_mergekit_file_may_be_inside_ours(tmp_path: Path, in_steps: Weights) -> None:
    theirs = {
        "merge_method": "slerp", "base_model": "x", "parameters": {"t": 0.3},
        "slices": [{"sources": [{"model": m, "layer_range": [0, LAYERS]} for m in ("x", "y")]}],
    }  # fmt: skip
    _write(tmp_path / "theirs.yaml", theirs)
    plan = _plan(tmp_path / "r.yaml", {"method": "ties", "base": "base", "models": ["theirs.yaml", "z"]})
    for name in in_steps.names():
        torch.testing.assert_close(plan.weights().read(name), in_steps.read(name), rtol=1e-6, atol=1e-6)


def test_recipes_by_name_see_each_other_and_are_planned_once(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    real = Plan.__init__

    def counting(self: Plan, recipe: Recipe, *rest: Any) -> None:
        planned.append(recipe.method)
        real(self, recipe, *rest)

    monkeypatch.setattr(Plan, "__init__", counting)
    recipes = {
        "half": SLERP,
        "double": {
            "method": "task_arithmetic", "base": "base", "models": ["half"], "parameters": {"lambda": 2.0},
        },
    }  # fmt: skip
    plan = _plan(
        tmp_path / "r.yaml",
        {"method": "linear", "models": ["double", "half"], "recipes": recipes, "dtype": "float32"},
    )
    assert sorted(planned) == ["linear", "slerp", "task_arithmetic"]
    half = _plan(tmp_path / "half.yaml", SLERP).weights()
    base = open_weights(models["base"])
    for name in half.names():
        expected = (base[name] + 2 * (half[name] - base[name]) + half[name]) / 2
        torch.testing.assert_close(plan.weights()[name], expected, atol=1e-6, rtol=1e-6)


def test_adapters_go_on_merges(tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "lora").mkdir()
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{prefix}.lora_A.weight": torch.ones(1, 6), f"{prefix}.lora_B.weight": torch.ones(6, 1)}
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    _write(tmp_path / "inner.yaml", {"genepool": 1, **SLERP})
    half = _plan(tmp_path / "half.yaml", SLERP).weights()
    name = "model.layers.0.mlp.up_proj.weight"
    for model in ("inner.yaml+lora", "lora+inner.yaml"):
        plan = _plan(tmp_path / "r.yaml", {"method": "passthrough", "models": [model]})
        torch.testing.assert_close(plan.weights()[name], half[name] + 1)
    plan = _plan(tmp_path / "r.yaml", {"method": "task_arithmetic", "base": SLERP, "models": ["lora", "z"]})
    assert plan.sources["lora"].delta(name, plan.sources["slerp(x, y)"]) is not None


def test_a_merge_may_be_the_base_and_stand_in_slices(tmp_path: Path, models: dict[str, Path]) -> None:
    slices = [
        {"sources": [{"model": SLERP, "layer_range": [0, 2]}]},
        {"sources": [{"model": "z", "layer_range": [1, 4]}]},
    ]
    plan = _plan(tmp_path / "r.yaml", {"method": "passthrough", "slices": slices})
    half, z = _plan(tmp_path / "half.yaml", SLERP).weights(), open_weights(models["z"])
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(plan.weights()[name.format(1)], half[name.format(1)])
    assert torch.equal(plan.weights()[name.format(2)], z[name.format(1)])
    based = _plan(tmp_path / "r.yaml", {"method": "ties", "base": SLERP, "models": ["z", "x"]})
    assert based.recipe.base == "slerp(x, y)"
    assert based.config is not None


def test_recipes_made_in_python_hold_recipes(models: dict[str, Path]) -> None:
    inner = Recipe(method="slerp", base=models["x"], models=[models["y"]], parameters={"t": 0.3})
    outer = Recipe(method="linear", models=[inner, models["z"]])
    assert outer.model_names() == ["slerp(x, y)", str(models["z"])]
    assert outer.leaf_models() == [str(models[name]) for name in ("x", "y", "z")]
    assert plan_merge(outer).weights().fingerprint() == plan_merge(outer).weights().fingerprint()


# ---------------------------------------------------------------------- identity


def test_the_fingerprint_covers_the_inner_recipe(tmp_path: Path, models: dict[str, Path]) -> None:
    outer = {"method": "linear", "models": ["inner.yaml", "z"]}
    prints = set()
    for t in (0.3, 0.4):
        _write(tmp_path / "inner.yaml", {"genepool": 1, **SLERP, "parameters": {"t": t}})
        prints.add(_plan(tmp_path / "r.yaml", outer).fingerprint())
    save_file(_tensors(9), models["y"] / "model.safetensors")
    prints.add(_plan(tmp_path / "r.yaml", outer).fingerprint())
    assert len(prints) == 3
    # A file, a recipe in place and a recipe by name are one and the same merge.
    in_place = {**SLERP, "parameters": {"t": 0.4}}
    same = [
        {"method": "linear", "models": [in_place, "z"]},
        {"method": "linear", "models": ["mine", "z"], "recipes": {"mine": in_place}},
    ]
    assert {_plan(tmp_path / "r.yaml", data).fingerprint() for data in same} <= prints


def test_what_is_written_needs_none_of_the_recipe_files(
    tmp_path: Path, models: dict[str, Path], cli: Callable[..., Any]
) -> None:
    _write(tmp_path / "parts" / "inner.yaml", {"genepool": 1, **SLERP, "base": "../x", "models": ["../y"]})
    recipe = _write(tmp_path / "r.yaml", {"genepool": 1, "method": "linear", "models": ["parts/inner.yaml", "z"]})
    assert cli("merge", recipe, tmp_path / "out", "--quiet", "--verify").code == 0
    (tmp_path / "parts" / "inner.yaml").unlink()
    again = plan_merge(load_recipe(tmp_path / "out" / "recipe.yaml").located("again", tmp_path))
    _same(again.weights(), open_weights(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["x", "y", "z"]
    assert "`parts/inner.yaml`, a slerp merge of `x`, `y` made in passing" in card
    assert json.loads((tmp_path / "out" / "genepool.json").read_text())["leaf_models"] == ["x", "y", "z"]


def test_a_changed_inner_recipe_is_not_gone_on_with(tmp_path: Path, models: dict[str, Path]) -> None:
    from genepool.merging.run import _run_key

    keys = set()
    for t in (0.3, 0.4):
        _write(tmp_path / "inner.yaml", {"genepool": 1, **SLERP, "parameters": {"t": t}})
        keys.add(_run_key(_plan(tmp_path / "r.yaml", {"method": "linear", "models": ["inner.yaml", "z"]}), 10**9))
    assert len(keys) == 2


def test_plan_shows_every_level_and_what_they_read_together(
    tmp_path: Path, models: dict[str, Path], cli: Callable[..., Any]
) -> None:
    ties = {"method": "ties", "base": "base", "models": [SLERP, "z"], "dtype": "float32"}
    recipe = _write(tmp_path / "r.yaml", {"genepool": 1, "method": "linear", "models": [ties, "x"]})
    shown = json.loads(cli("plan", recipe, "--json").out)
    size = sum(tensor.numel() * 4 for tensor in _tensors(0).values())
    (middle,) = shown["inner"].values()
    (innermost,) = middle["inner"].values()
    passes = middle["passes"]
    assert passes > 1
    assert innermost["bytes_read"] == innermost["passes"] * 2 * size
    # Every pass of the middle one reads its two models and computes the innermost one anew, from two more, whose
    # angles are measured once.
    assert middle["bytes_read"] == passes * 2 * size + (innermost["passes"] - 1 + passes) * 2 * size
    assert shown["bytes_read"] == middle["bytes_read"] + size
    told = cli("plan", recipe).out
    assert "slerp(x, y): slerp in 2 passes, computed as it is read" in told


# ---------------------------------------------------------------------- refusals


def _refused(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        _plan(tmp_path / "r.yaml", data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_circles_are_refused_naming_the_chain(tmp_path: Path, models: dict[str, Path]) -> None:
    linear = {"genepool": 1, "method": "linear"}
    _write(tmp_path / "parts" / "a.yaml", {**linear, "models": ["b.yaml", "../x"]})
    _write(tmp_path / "parts" / "b.yaml", {**linear, "models": ["a.yaml", "../y"]})
    _refused(tmp_path, {"method": "linear", "models": ["parts/a.yaml", "z"]}, "a circle: a.yaml -> b.yaml -> a.yaml")
    _refused(tmp_path, {"method": "linear", "models": ["r.yaml", "z"]}, "a circle: r.yaml -> r.yaml")
    recipes = {name: {"method": "linear", "models": [other, "x"]} for name, other in (("one", "two"), ("two", "one"))}
    _refused(tmp_path, {"method": "linear", "models": ["one", "z"], "recipes": recipes}, "one -> two -> one")
    recipes = {"self": {"method": "linear", "models": ["self", "x"]}}
    _refused(tmp_path, {"method": "linear", "models": ["self", "z"], "recipes": recipes}, "a circle: self -> self")


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ({"method": "slerpp", "models": ["x", "y"]}, "recipes.slerpp(x, y):method: unknown merge method 'slerpp'"),
        ({"method": "slerp", "modelz": []}, "unknown key 'modelz'. Did you mean 'models'?"),
        ({"method": "linear", "models": ["nowhere"]}, "nowhere: no such model"),
        ({"method": "linear", "models": ["missing.yaml", "x"]}, "missing.yaml: no such model"),
        (
            {"method": "ties", "base": "base", "models": ["x"], "parameters": {"density": 3}},
            "density is out of range, got 3",
        ),
        ({"models": ["x"]}, "recipes.recipe(x).method: this key is required"),
    ],
)
def test_errors_inside_name_where_they_are(
    tmp_path: Path, models: dict[str, Path], inner: dict[str, Any], said: str
) -> None:
    _refused(tmp_path, {"method": "linear", "models": [{"model": inner}, "z"]}, said)


def test_a_recipe_nobody_uses_is_a_slip(tmp_path: Path, models: dict[str, Path]) -> None:
    data = {"method": "linear", "models": ["x", "y"], "recipes": {"half": SLERP}}
    _refused(tmp_path, data, "r.yaml:recipes.half: no model is called 'half'")


def test_a_file_does_not_see_the_names_around_it(tmp_path: Path, models: dict[str, Path]) -> None:
    _write(tmp_path / "inner.yaml", {"genepool": 1, "method": "linear", "models": ["half", "x"]})
    data = {"method": "linear", "models": ["inner.yaml", "half"], "recipes": {"half": SLERP}}
    _refused(tmp_path, data, "half: no such model")


def test_the_output_may_not_replace_what_an_inner_merge_reads(
    tmp_path: Path, models: dict[str, Path], cli: Callable[..., Any]
) -> None:
    recipe = _write(tmp_path / "r.yaml", {"genepool": 1, "method": "linear", "models": [SLERP, "z"]})
    for out, said in ((models["y"], "the output is one of the inputs"), (tmp_path, "lies in the output folder")):
        answer = cli("merge", recipe, out, "--overwrite", "--quiet")
        assert answer.code == 2
        assert said in answer.err
    assert (models["y"] / "model.safetensors").exists()


# ---------------------------------------------------------------------- mergekit's several documents


def _documents(tmp_path: Path, *documents: dict[str, Any]) -> Path:
    path = tmp_path / "multi.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def _linear(*names: str, **more: Any) -> dict[str, Any]:
    entries = [{"model": name, "parameters": {"weight": 1.0}} for name in names]
    return {"merge_method": "linear", "models": entries, "dtype": "float32", **more}


def test_documents_may_come_in_any_order_and_one_that_is_unused_warns(
    tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = _documents(
        tmp_path, _linear("two", "z"), _linear("one", "y", name="two"), _linear("x", "y", name="one"),
        _linear("x", "z", name="spare"),
    )  # fmt: skip
    merged = plan_merge(load_recipe(path)).weights()
    name = "model.layers.0.mlp.up_proj.weight"
    x, y, z = (open_weights(models[model])[name] for model in "xyz")
    torch.testing.assert_close(merged[name], (((x + y) / 2 + y) / 2 + z) / 2)
    assert "spare: no document uses it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([_linear("x", "y", name="a"), _linear("a", "z", name="a"), _linear("a", "z")], "two documents are called 'a'"),
        ([_linear("x", "y"), _linear("y", "z")], "two documents without a name"),
        ([_linear("x", "y", name="a"), _linear("a", "z", name="b")], "every document has a name"),
        ([_linear("b", "y", name="a"), _linear("a", "y", name="b"), _linear("a", "z")], "a circle: a -> b -> a"),
        ([_linear("x", "y", name=3), _linear("y", "z")], "got 3, expected text"),
        ([["x"], _linear("y", "z")], "multi.yaml:document 1: is not a recipe"),
        ([_linear("x", "y", name="a", dtpye="x"), _linear("a", "z")], "multi.yaml:a:dtpye: unknown key 'dtpye'"),
        ([{"genepool": 1, **SLERP}, _linear("x", "z")], "Put the inner recipes under `recipes:`"),
    ],
)
def test_documents_that_make_no_recipe(
    tmp_path: Path, models: dict[str, Path], documents: list[Any], said: str, cli: Callable[..., Any]
) -> None:
    answer = cli("merge", _documents(tmp_path, *documents), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "out").exists()
