"""Shuffled layers: what `mergekit-layershuffle` makes, as a recipe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mergekit.answers import golden_inputs
from genepool.errors import InputError
from genepool.merging import load_recipe, parse_recipe, plan_merge
from genepool.merging.shuffling import shuffled_recipe
from genepool.weights import TensorWeights, open_weights


def tensors(layers: int, model: int = 0) -> dict[str, torch.Tensor]:
    """So many layers, each with matrices that are full of its number and its model's."""
    outside = {"model.embed_tokens.weight": torch.zeros(4, 2), "model.norm.weight": torch.ones(2)}
    return outside | {
        f"model.layers.{i}.mlp.{part}_proj.weight": torch.full((2, 2), float(100 * model + i))
        for i in range(layers)
        for part in ("gate", "up", "down")
    }


def stack(name: str, layers: int) -> TensorWeights:
    return TensorWeights(tensors(layers), name)


def layers_of(recipe: dict[str, Any]) -> list[tuple[str, int]]:
    sources = [source for part in recipe["slices"] for source in part["sources"]]
    return [(one["model"], layer) for one in sources for layer in range(*one["layer_range"])]


@given(st.integers(2, 9), st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(any), st.integers(0, 99))
def test_every_layer_stays_in_its_place(depth: int, weights: list[int], seed: int) -> None:
    models = {f"m{i}": stack(f"m{i}", depth) for i in range(len(weights))}
    recipe = shuffled_recipe(models, weights, seed=seed)
    found = layers_of(recipe)
    assert [layer for _, layer in found] == list(range(depth))
    assert all(weights[int(name[1:])] for name, _ in found)
    parse_recipe(recipe)
    assert recipe == shuffled_recipe(models, weights, seed=seed)


@given(st.lists(st.tuples(st.integers(2, 8), st.floats(0.5, 2)), min_size=2, max_size=3), st.integers(0, 99))
def test_of_random_layers_every_model_gives_its_share(parts: list[tuple[int, float]], seed: int) -> None:
    models = {f"m{i}": stack(f"m{i}", depth) for i, (depth, _) in enumerate(parts)}
    shares = [share if int(share * depth) else 1.0 for depth, share in parts]
    found = layers_of(shuffled_recipe(models, shares, full_random=True, seed=seed))
    counts = Counter(name for name, _ in found)
    given_parts = enumerate(zip(parts, shares, strict=True))
    assert counts == Counter({f"m{i}": int(share * depth) for i, ((depth, _), share) in given_parts})
    assert all(0 <= layer < parts[int(name[1:])][0] for name, layer in found)


def test_weights_are_chances() -> None:
    models = {name: stack(name, 800) for name in ("a", "b")}
    counts = Counter(name for name, _ in layers_of(shuffled_recipe(models, [3, 1])))
    # Five standard deviations.
    assert abs(counts["a"] - 600) < 5 * (800 * 0.75 * 0.25) ** 0.5


def test_layers_that_follow_each_other_are_one_piece() -> None:
    models = {name: stack(name, 6) for name in ("a", "b")}
    assert len(shuffled_recipe(models, [1, 0])["slices"]) == 1


@pytest.fixture
def models(save_model: Callable[..., Path]) -> tuple[Path, Path]:
    return save_model("a", tensors(6, 1), model_type="toy"), save_model("b", tensors(6, 2), model_type="toy")


def test_the_command_writes_a_recipe_that_merges(
    cli: Callable[..., Any], models: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, out = tmp_path / "recipes" / "r.yaml", tmp_path / "merged"
    done = cli("shuffle", *models, "--weight", 1, "--weight", 1, "--seed", 4, "--out", recipe, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["recipe"] == yaml.safe_load(recipe.read_text())
    assert cli("merge", recipe, out).code == 0
    merged, sources = open_weights(out), {str(path.resolve()): open_weights(path) for path in models}
    for place, (name, layer) in enumerate(layers_of(told["recipe"])):
        for tensor in (n for n in merged.names() if f"layers.{place}." in n):
            own = tensor.replace(f"layers.{place}.", f"layers.{layer}.")
            assert merged.read(tensor).equal(sources[name].read(own))
    assert cli("shuffle", *models, "--out", recipe).code == 2
    again = ("--full-random", "--out", recipe, "--overwrite", "--allow-pickle", "--quiet")
    assert cli("shuffle", *models, *again).code == 0
    plan_merge(load_recipe(recipe))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--weight", 1], "--weight: got 1 for 2 models"),
        (["--weight", 1, "--weight", -1], "weights must be 0 or more"),
        (["--weight", "nan", "--weight", 1], "weights must be 0 or more"),
        (["--weight", 0, "--weight", 0], "weights must be 0 or more"),
        (["--full-random", "--weight", 0.01, "--weight", 0.01], "no model gives a whole layer"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    cli: Callable[..., Any], models: tuple[Path, Path], tmp_path: Path, options: list[Any], complaint: str
) -> None:
    done = cli("shuffle", *models, *options, "--out", tmp_path / "r.yaml")
    assert done.code == 2
    assert complaint in done.err
    assert not (tmp_path / "r.yaml").exists()


def test_models_of_other_depths_are_refused(cli: Callable[..., Any], save_model: Callable[..., Path]) -> None:
    one, two = save_model("one", tensors(4)), save_model("two", tensors(5))
    done = cli("shuffle", one, two, "--out", one.parent / "r.yaml")
    assert done.code == 2
    assert "depths differ" in done.err
    assert cli("shuffle", one, "--out", one.parent / "r.yaml").code == 2


def test_shares_that_no_stack_can_have_are_refused() -> None:
    models = {name: stack(name, 3) for name in "ab"}
    with pytest.raises(InputError, match=r"these shares make 6e\+09 layers, more than 10,000"):
        shuffled_recipe(models, [1e9, 1e9], full_random=True)


def with_tokens(folder: Path, tokens: list[str]) -> Path:
    """A model's folder with a tokenizer of some words, in the order of their ids."""
    vocabulary = {"type": "WordLevel", "unk_token": tokens[0], "vocab": {token: i for i, token in enumerate(tokens)}}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": vocabulary}))
    return folder


@pytest.mark.parametrize(
    ("theirs", "joined"), [("abcd", False), ("dcba", True), ("abce", True)], ids=["same", "moved", "other"]
)
def test_models_of_two_vocabularies_are_joined(
    cli: Callable[..., Any], models: tuple[Path, Path], tmp_path: Path, theirs: str, joined: bool
) -> None:
    with_tokens(models[0], list("abcd"))
    with_tokens(models[1], list(theirs))
    recipe, out = tmp_path / "r.yaml", tmp_path / "merged"
    told = cli("shuffle", *models, "--weight", 1, "--weight", 1, "--seed", 4, "--out", recipe, "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["recipe"].get("tokenizer") == ("union" if joined else None)
    done = cli("merge", recipe, out)
    assert done.code == 0, done.err
    assert len(open_weights(out).read("model.embed_tokens.weight")) == len({*"abcd", *theirs})


def test_rows_that_nobody_explains_are_refused(cli: Callable[..., Any], save_model: Callable[..., Path]) -> None:
    one = with_tokens(save_model("one", tensors(4), model_type="toy"), list("abcd"))
    two = save_model("two", {**tensors(4), "model.embed_tokens.weight": torch.zeros(6, 2)}, model_type="toy")
    done = cli("shuffle", one, two, "--out", one.parent / "r.yaml")
    assert done.code == 2
    assert f"{two}: the models differ in their tokens, and no file says which token" in done.err
    assert not (one.parent / "r.yaml").exists()


@pytest.mark.slow
def test_a_stack_that_would_lack_its_head_is_refused(cli: Callable[..., Any], tmp_path: Path) -> None:
    models = golden_inputs().write_models(tmp_path / "models")
    own, tied, recipe = models["a"], models["b_tied"], tmp_path / "r.yaml"
    done = cli("shuffle", own, tied, "--seed", 6, "--out", recipe)
    assert done.code == 2
    assert (
        f"{tied}: its head is its embedding, and {own}, which the stack begins with, has a head of its own" in done.err
    )
    assert not recipe.exists()
    assert cli("shuffle", tied, own, "--seed", 6, "--out", recipe).code == 0
    done = cli("merge", recipe, tmp_path / "out")
    assert done.code == 0, done.err
    assert open_weights(tmp_path / "out").read("lm_head.weight").equal(open_weights(own).read("lm_head.weight"))
