"""EMA copies beside a checkpoint's weights: refused in one line, left out, and used in place of the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.weights import TensorWeights
from genepool.weights.ema import EmaCopies, without_copies

Tensors = dict[str, torch.Tensor]

#: What training scripts call the copy of a weight.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "model_ema": lambda name: f"model_ema.{name}",
    "ema": lambda name: f"ema.{name}",
    "ema_model": lambda name: f"ema_model.{name}",
    "averaged": lambda name: f"ema_model.module.{name}",
    "inside": lambda name: f"model_ema.{name.removeprefix('model.')}",
    "ending": lambda name: f"{name}.ema",
    "flat": lambda name: "model_ema." + name.removeprefix("model.").replace(".", ""),
}
COUNTERS = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}


def plain(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.input_blocks.0.0.bias": (4,), "model.norm.weight": (4,)}
    shapes |= {f"model.input_blocks.{i}.0.weight": (4, 4) for i in range(3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def copied(weights: Tensors, spelt: Callable[[str], str]) -> Tensors:
    """Copies that are the weights plus one."""
    return {spelt(name): value + 1 for name, value in weights.items()}


def merged(models: dict[str, Tensors], **recipe: Any) -> Tensors:
    opened = {name: TensorWeights(tensors, name) for name, tensors in models.items()}
    data = {"method": "linear", "models": [name for name in models if name != recipe.get("base")], **recipe}
    weights = plan_merge(Recipe.model_validate(data), opened).weights()
    return {name: weights.read(name) for name in weights.names()}


def refusal(models: dict[str, Tensors], **recipe: Any) -> str:
    with pytest.raises(InputError) as caught:
        merged(models, **recipe)
    return str(caught.value)


def same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


@given(
    st.lists(st.from_regex(r"[a-z]{1,4}(\.[a-z0-9]{1,3}){1,3}", fullmatch=True), min_size=1, max_size=6, unique=True),
    st.sampled_from([name for name in SPELLINGS if name not in ("inside", "flat")]),
)
def test_every_copy_is_found_whatever_the_weights_are_called(names: list[str], spelling: str) -> None:
    names = [name for name in names if "ema" not in name.split(".")]
    shapes = {name: (number + 2, 3) for number, name in enumerate(names)}
    spelt = SPELLINGS[spelling]
    copies = EmaCopies({**shapes, **{spelt(name): shape for name, shape in shapes.items()}})
    assert copies.weight_of == {spelt(name): name for name in names}


def test_names_with_and_without_dots_and_what_is_counted() -> None:
    shapes = {name: tuple(value.shape) for name, value in {**plain(0), **COUNTERS}.items()}
    for spelt in SPELLINGS.values():
        copies = EmaCopies({**shapes, **{spelt(name): tuple(value.shape) for name, value in plain(0).items()}})
        assert copies.weight_of == {spelt(name): name for name in plain(0)}
        assert not copies.unpaired
        assert spelt("model.norm.weight") in copies
        assert "model.norm.weight" not in copies


def test_a_module_called_ema_and_names_that_mean_two_weights_are_no_copies() -> None:
    assert not EmaCopies({"model.ema.gate.weight": (3, 3), "model.up.weight": (4, 4)})
    # Without dots, layers 1.1 and 11 are one name.
    two = {"model.layers.1.1.weight": (2, 2), "model.layers.11.weight": (2, 2), "model_ema.layers11weight": (2, 2)}
    assert not EmaCopies(two)
    assert EmaCopies({**two, "model.layers.11.weight": (3, 2)}).weight_of == {
        "model_ema.layers11weight": "model.layers.1.1.weight"
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_copies_that_one_model_has_are_called_that_and_both_ways_out_work(
    spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = plain(1), plain(2)
    models = {"a": {**a, **copied(a, SPELLINGS[spelling])}, "b": b}
    said = refusal(models)
    assert "a holds EMA copies beside its weights and b does not: " in said
    assert "Write `ema: drop` to leave them out, or `ema: use` to merge them in place of the weights" in said
    assert "\n" not in said
    assert "every loader computes" not in capsys.readouterr().err
    same(merged(models, ema="drop"), {name: (a[name] + b[name]) / 2 for name in a})
    same(merged(models, ema="use"), {name: (a[name] + 1 + b[name]) / 2 for name in a})


def test_a_rule_drops_them_too_and_copies_of_all_models_are_merged_alike() -> None:
    a, b = ({**plain(seed), **copied(plain(seed), SPELLINGS["flat"]), **COUNTERS} for seed in (1, 2))
    rules = [{"match": "model_ema", "from": "drop"}]
    halves = {name: (a[name] + b[name]) / 2 for name in plain(1)}
    same(merged({"a": a, "b": plain(2)}, tensors=rules), halves)
    floats = {name: value for name, value in a.items() if name != "model_ema.num_updates"}
    both = merged({"a": floats, "b": {name: b[name] for name in floats}})
    same(both, {name: (a[name] + b[name]) / 2 for name in floats})
    same(merged({"a": a, "b": b}, ema="drop"), halves)
    same(merged({"a": a, "b": b}, ema="use"), {name: value + 1 for name, value in halves.items()})


def test_a_base_without_copies_and_tied_weights() -> None:
    base, a, b = plain(0), plain(1), plain(2)
    models = {"base": base, "a": {**a, **copied(a, SPELLINGS["ema"])}, "b": b}
    out = merged(models, base="base", method="task_arithmetic", parameters={"lambda": 1.0}, ema="use")
    same(out, {name: (a[name] + 1) + b[name] - base[name] for name in a})


class Tied(TensorWeights):
    """A model with one tensor under a second name."""

    def aliases(self) -> dict[str, str]:
        return {"head.weight": "model.norm.weight"}

    def info(self, name: str) -> Any:
        return super().info(self.aliases().get(name, name))

    def read(self, name: str) -> torch.Tensor:
        return super().read(self.aliases().get(name, name))


@pytest.mark.parametrize("called", ["model.norm.weight", "head.weight"])
def test_a_tied_weight_has_one_copy_under_either_name(called: str) -> None:
    tensors = {**plain(1), f"model_ema.{called}": torch.full((4,), 5.0)}
    used = without_copies(Tied(tensors, "a"), "use")
    assert used.aliases() == {"head.weight": "model.norm.weight"}
    assert set(used.names()) == set(plain(1))
    for name in ("model.norm.weight", "head.weight"):
        torch.testing.assert_close(used.read(name), torch.full((4,), 5.0))
    torch.testing.assert_close(
        without_copies(Tied(tensors, "a"), "drop").read("head.weight"), tensors["model.norm.weight"]
    )


def test_what_cannot_be_is_one_line() -> None:
    a, b = plain(1), plain(2)
    assert "recipe:ema: a and b hold no EMA copies" in refusal({"a": a, "b": b}, ema="use")
    odd = {**a, **copied(a, SPELLINGS["ema"]), "ema.other.weight": torch.ones(2, 2)}
    said = refusal({"a": odd, "b": b}, ema="use")
    assert "a:ema.other.weight: is beside EMA copies, and no weight has its name and shape. Write `ema: drop`" in said
    same(merged({"a": odd, "b": b}, ema="drop"), {name: (a[name] + b[name]) / 2 for name in a})


def test_from_the_command_line(tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]) -> None:
    a, b = plain(1), plain(2)
    save_model("a", {**a, **copied(a, SPELLINGS["flat"]), **COUNTERS})
    save_model("b", b)
    recipe = tmp_path / "recipe.yaml"

    def written(**keys: Any) -> Path:
        recipe.write_text(yaml.safe_dump({"genepool": 1, "method": "linear", "models": ["a", "b"], **keys}))
        return recipe

    refused = cli("merge", written(), "--out", tmp_path / "out")
    assert (refused.code, "holds EMA copies beside its weights" in refused.err) == (2, True)
    assert "every loader" not in refused.err
    assert not (tmp_path / "out").exists()
    for ema, more in (("drop", 0), ("use", 1)):
        out = tmp_path / ema
        answer = cli("merge", written(ema=ema), "--out", out, "--verify")
        assert answer.code == 0, answer.err
        assert "note: the EMA copies of a are " in answer.err
        same(load_file(out / "model.safetensors"), {name: (a[name] + more + b[name]) / 2 for name in a})
        assert yaml.safe_load((out / "recipe.yaml").read_text())["ema"] == ema
    plans = [json.loads(cli("plan", written(ema=ema), "--json").out) for ema in ("drop", "use")]
    assert [plan["renamed"].get("a", {}).get("tensors") for plan in plans] == [None, len(a)]


@pytest.mark.slow
def test_copies_in_a_checkpoint_of_a_class_that_is_known(
    tmp_path: Path, tiny_testbed: Any, cli: Callable[..., Any]
) -> None:
    bed = tiny_testbed.folder
    weights = load_file(bed / "full" / "sort" / "model.safetensors")
    shutil.copytree(bed / "full" / "sort", tmp_path / "averaged")
    copies = {"model_ema." + name.removeprefix("model.").replace(".", ""): value * 2 for name, value in weights.items()}
    save_file({**weights, **copies, **COUNTERS}, tmp_path / "averaged" / "model.safetensors", {"format": "pt"})
    recipe = tmp_path / "recipe.yaml"
    data = {"genepool": 1, "method": "linear", "models": [str(bed / "full" / "reverse"), "averaged"]}

    def written(**keys: Any) -> Path:
        recipe.write_text(yaml.safe_dump({**data, **keys}))
        return recipe

    refused = cli("merge", written(), "--out", tmp_path / "out")
    assert (refused.code, "averaged holds EMA copies beside its weights" in refused.err) == (2, True)
    assert "every loader" not in refused.err
    other = load_file(bed / "full" / "reverse" / "model.safetensors")
    for number, (keys, factor) in enumerate(
        [({"ema": "drop"}, 1), ({"ema": "use"}, 2), ({"tensors": [{"match": "model_ema", "from": "drop"}]}, 1)]
    ):
        answer = cli("merge", written(**keys), "--out", tmp_path / str(number))
        assert answer.code == 0, answer.err
        out = load_file(tmp_path / str(number) / "model.safetensors")
        same(
            out,
            {
                name: ((value.float() + factor * weights[name].float()) / 2).to(value.dtype)
                for name, value in other.items()
            },
        )
    from transformers import AutoModelForCausalLM

    _, told = AutoModelForCausalLM.from_pretrained(tmp_path / "1", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
