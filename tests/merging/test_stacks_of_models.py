"""Slices and modules of models with several stacks: every tensor is written, and transformers loads what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from models_of_parts import ARCHITECTURES, Kin, save_near

from genepool.weights import infer_roles, open_weights
from genepool.weights.stacks import Stacks

pytestmark = pytest.mark.slow

# Where the number of layers of one stack follows from another's, or a tower takes from certain layers, a loader cannot
# have other ones.
BOUND = {("idefics", "text"), ("qwen3_vl", "vision")}


def stacks_of(folder: Path) -> Stacks:
    weights = open_weights(folder)
    return Stacks(infer_roles({name: weights.info(name) for name in weights.names()}), weights.config)


def write(folder: Path, **data: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"genepool": 1, **data}))
    return path


def sources(first: int, end: int) -> dict[str, Any]:
    return {"sources": [{"model": name, "layer_range": [first, end]} for name in ("a", "b")]}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_stack_can_lose_a_layer_and_all_else_stays(name: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    kin = Kin(tmp_path, name)
    stacks = stacks_of(tmp_path / "base")
    assert len(stacks.proper) > 1
    base, a, b = (kin.stored(one) for one in ("base", "a", "b"))
    odd = kin.loaded("base")[1]
    for stack in stacks.proper:
        word = stacks.short(stack)
        # The first layer stays: a T5 keeps its table of distances there.
        keep = [layer for layer in range(stack.layers) if layer != 1]
        recipe = write(
            tmp_path,
            method="linear",
            base="base",
            modules={word: {"slices": [sources(layer, layer + 1) for layer in keep]}},
        )
        answer = cli("merge", recipe, "--out", tmp_path / "out", "--overwrite")
        if (name, word) in BOUND:
            assert answer.code == 2
            assert "the result would" in answer.err
            assert "that its config" in answer.err
            continue
        assert answer.code == 0, answer.err
        assert "as in base, not merged" in answer.err
        expected = {}
        for key, value in base.items():
            mean = (a[key] + b[key]) / 2
            if key.startswith(stack.path + "."):
                layer, _, tail = key.removeprefix(stack.path + ".").partition(".")
                if int(layer) in keep:
                    expected[f"{stack.path}.{keep.index(int(layer))}.{tail}"] = mean
            else:
                covered = stacks.kind_of(key) == word
                expected[key] = mean if covered else value
        found, told = kin.loaded("out")
        assert told == odd
        written = kin.stored("out")
        assert set(written) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(written[key], value, msg=f"{word}: {key}")
        assert sum(value.numel() for value in found.values()) < sum(v.numel() for v in kin.loaded("base")[0].values())


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "t5", "whisper", "speech_encoder_decoder"])
def test_slices_without_a_module_are_of_the_stack_that_writes(
    name: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    kin = Kin(tmp_path, name)
    stacks = stacks_of(tmp_path / "base")
    main = stacks.main()
    assert main is not None
    assert main.kind in ("text", "decoder")
    listed = "".join(f"  - {{model: {one}, layer_range: [0, {main.layers}]}}\n" for one in "ab")
    (tmp_path / "recipe.yaml").write_text(
        f"merge_method: slerp\nbase_model: a\nparameters: {{t: 0}}\ndtype: float32\nslices:\n- sources:\n{listed}"
    )
    answer = cli("merge", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    # At t = 0 it is the first model: nothing is lost, nothing drawn anew.
    assert set(kin.stored("out")) == set(kin.stored("a"))
    for key, value in kin.stored("a").items():
        torch.testing.assert_close(kin.stored("out")[key], value)
    kept = json.loads(answer.out)["kept"]["a"]
    assert {stacks.kind_of(key) for key in kept} == {stacks.kind_of(key) for key in kin.stored("a")} - {main.kind}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_two_towers_of_which_neither_writes_must_be_named(name: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    Kin(tmp_path, name)
    answer = cli("merge", write(tmp_path, method="linear", slices=[sources(0, 2)]), "--out", tmp_path / "out")
    assert answer.code == 2
    assert "has several stacks of layers: text (3 layers), vision (2 layers)" in answer.err
    assert "under `modules:`, by one of `text`, `vision`" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dialect", ["ours", "mergekit"])
def test_modules_are_merged_each_in_its_way(dialect: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    kin = Kin(tmp_path, "llava")

    def models(first: float) -> dict[str, Any]:
        weights = {"a": first, "b": 1 - first}
        return {"models": [{"model": one, "parameters": {"weight": weights[one]}} for one in "ab"]}

    if dialect == "ours":
        recipe = write(tmp_path, method="linear", base="base", modules={"text": models(0.25), "vision": models(1.0)})
    else:
        recipe = tmp_path / "recipe.yaml"
        modules = {"text_decoder": models(0.25), "vision_tower": models(1.0)}
        recipe.write_text(
            yaml.safe_dump(
                {"merge_method": "task_arithmetic", "base_model": "base", "modules": modules, "dtype": "float32"}
            )
        )
    assert cli("merge", recipe, "--out", tmp_path / "out").code == 0
    stacks = stacks_of(tmp_path / "base")
    base, a, b, out = (kin.stored(one) for one in ("base", "a", "b", "out"))
    for key, value in out.items():
        shares = {"text": (0.25, 0.75), "vision": (1.0, 0.0)}.get(stacks.kind_of(key) or "")
        wanted = base[key] if shares is None else shares[0] * a[key] + shares[1] * b[key]
        torch.testing.assert_close(value, wanted)
    assert kin.loaded("out")[1] == set()


INSIDE = {
    "qwen2_vl": ("Qwen2ForCausalLM", "Qwen2Config", {}),
    "llava": ("LlamaForCausalLM", "LlamaConfig", {}),
    "paligemma": ("GemmaForCausalLM", "GemmaConfig", {"head_dim": 8, "tie_word_embeddings": True}),
    "idefics2": ("MistralForCausalLM", "MistralConfig", {}),
    "idefics3": ("LlamaForCausalLM", "LlamaConfig", {}),
    "qwen2_audio": ("Qwen2ForCausalLM", "Qwen2Config", {}),
}


@pytest.mark.parametrize("first", ["a", "lm"])
@pytest.mark.parametrize("name", INSIDE)
def test_a_text_model_goes_into_the_language_part_and_the_rest_stays(
    name: str, first: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    import transformers as tf
    from models_of_parts import TEXT

    kin = Kin(tmp_path, name)
    kind, config, more = INSIDE[name]
    torch.manual_seed(7)
    lm = save_near(getattr(tf, kind)(getattr(tf, config)(**{**TEXT, **more})), tmp_path / "lm", 8)
    shares = {"a": 0.75, "lm": 0.25}
    order = [first, *(one for one in shares if one != first)]
    models = [{"model": one, "parameters": {"weight": shares[one]}} for one in order]
    data = {"merge_method": "linear", "models": models, "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    answer = cli("merge", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "as in a, not merged" in answer.err
    found, odd = kin.loaded("out")
    assert odd == set()
    outer, inner = kin.loaded("a")[0], lm.state_dict()
    unused = set(inner)
    for key, value in found.items():
        # In memory the language part is called this in every one of these classes.
        own = next(
            (
                one
                for one in (key.replace(part, "model.", 1) for part in ("model.language_model.", "model.text_model."))
                if one in inner
            ),
            key if key in inner and not key.startswith("model.") else None,
        )
        if own is None:
            torch.testing.assert_close(value, outer[key], msg=key)
        else:
            torch.testing.assert_close(value, 0.75 * outer[key] + 0.25 * inner[own], msg=key)
            unused.discard(own)
    assert not unused
    card = (tmp_path / "out" / "README.md").read_text()
    assert "as in a, not merged" in card


def test_a_shallower_text_model_is_told_apart_from_the_language_part(tmp_path: Path, cli: Callable[..., Any]) -> None:
    import transformers as tf
    from models_of_parts import TEXT

    Kin(tmp_path, "llava")
    for layers in (2, 4):
        small = tf.LlamaForCausalLM(tf.LlamaConfig(**{**TEXT, "num_hidden_layers": layers}))
        save_near(small, tmp_path / "lm", 8)
        answer = cli("merge", write(tmp_path, method="linear", models=["a", "lm"]), "--out", tmp_path / "out")
        assert answer.code == 2
        assert f"a has 3 layers and lm has {layers}. Use `slices`" in answer.err
