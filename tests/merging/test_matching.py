"""Lining models up by name and by the part a head plays, at any number of tensors; and errors that say enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.merging.matching import Headers, inspect_command
from genepool.weights import TensorWeights


def tensors(layers: int = 3, width: int = 4, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {"model.embed_tokens.weight": torch.ones(6, width), "model.norm.weight": torch.ones(width)}
    for i in range(layers):
        made[f"model.layers.{i}.self_attn.q_proj.weight"] = torch.ones(width, width)
        made[f"model.layers.{i}.mlp.up_proj.weight"] = torch.ones(2 * width, width)
    return {**made, **{name.replace("__", "."): value for name, value in more.items()}}


def without(made: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in made.items() if part not in name}


def refusal(**models: dict[str, torch.Tensor]) -> str:
    """What `plan_merge` says of models that do not fit."""
    opened = {name: TensorWeights(made, name) for name, made in models.items()}
    base, *others = opened
    with pytest.raises(InputError) as caught:
        plan_merge(Recipe(method="task_arithmetic", base=base, models=others, parameters={"lambda": 1.0}), opened)
    return str(caught.value)


def test_a_missing_tensor_names_it_its_owner_and_the_command() -> None:
    assert refusal(base=tensors(), tuned=without(tensors(), "norm")) == (
        "recipe: tuned has no tensor model.norm.weight, which base has. To merge what they share and have the rest as "
        "in base, add `rest: base`; run `genepool inspect base tuned` to see all that differs."
    )


def test_many_missing_tensors_are_counted_and_the_first_named() -> None:
    said = refusal(base=tensors(), tuned=without(tensors(), "up_proj"), other=without(tensors(), "norm"))
    assert "other has no tensor model.norm.weight, which base has (and 3 more that not every model has)" in said
    said = refusal(base=tensors(7), tuned=without(tensors(7), "up_proj"))
    names = ", ".join(f"model.layers.{i}.mlp.up_proj.weight" for i in range(3))
    assert f"tuned lacks 7 tensors that base has: {names} and 4 more. " in said


def test_shapes_say_which_has_which() -> None:
    wide = tensors(model__norm__weight=torch.ones(5))
    wide["model.layers.0.mlp.up_proj.weight"] = torch.ones(9, 4)
    said = refusal(base=tensors(), tuned=wide)
    assert said.startswith(
        "recipe:model.norm.weight: the shapes differ: [5] in tuned, [4] in base; so do those of "
        "model.layers.0.mlp.up_proj.weight ([9, 4] and [8, 4]). "
    )
    assert "run `genepool inspect base tuned`" in said


def test_a_longer_embedding_is_another_vocabulary() -> None:
    said = refusal(base=tensors(), tuned=tensors(model__embed_tokens__weight=torch.ones(8, 4)))
    assert "the vocabularies differ in size: [8, 4] in tuned, [6, 4] in base. If one only has further rows" in said


def test_the_depth_comes_before_the_tensors_it_leaves_over() -> None:
    said = refusal(base=tensors(3), same=tensors(3), deep=tensors(5))
    assert "base has 3 layers and deep has 5. Use `slices`" in said
    assert "run `genepool inspect base deep`" in said


def test_of_several_stacks_the_one_that_differs_is_named() -> None:
    def model(encoder: int, decoder: int) -> TensorWeights:
        made = {
            f"{stack}.block.{i}.layer.{j}.{kind}.weight": torch.ones(2, 2)
            for stack, count in (("encoder", encoder), ("decoder", decoder))
            for i in range(count)
            for j, kind in enumerate(("SelfAttention.q", "DenseReluDense.wi", "DenseReluDense.wo"))
        }
        return TensorWeights(made)

    fit = Headers({"a": model(3, 4), "b": model(4, 4)}).fit(["a", "b"])
    assert [(conflict.stack, dict(conflict.counts)) for conflict in fit.depths] == [("encoder.block", {"a": 3, "b": 4})]
    assert {entry.owner for entry in fit.missing} == {"b"}
    assert len(fit.matches) == 7 * 3


def test_the_command_can_be_pasted_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models/base", "models/my tune", "models/a+b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models"
    assert inspect_command(["base", "my tune"], folder) == "genepool inspect models/base 'models/my tune'"
    assert inspect_command(["base+my tune", "a+b"], folder) == (
        "genepool inspect 'models/base+models/my tune' models/a+b"
    )
    assert inspect_command(["org/name@main"], folder) == "genepool inspect org/name@main"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert inspect_command(["base"], folder) == f"genepool inspect {folder / 'base'}"


def test_a_tied_embedding_stands_for_the_head_of_another() -> None:
    head = torch.ones(6, 4)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    sources = {
        "copied": TensorWeights(tensors(), aliases={"lm_head.weight": "model.embed_tokens.weight"}),
        "untied": TensorWeights({**tensors(), "lm_head.weight": head}),
        "silent": TensorWeights(tensors(), config=config),
    }
    fit = Headers(sources).fit(list(sources))
    assert not fit.missing
    match = next(match for match in fit.matches if match.name == "lm_head.weight")
    assert match.role.part == "head"
    assert match.tensors == {
        "copied": "lm_head.weight", "untied": "lm_head.weight", "silent": "model.embed_tokens.weight"
    }  # fmt: skip


def test_what_is_tied_is_asked_of_the_class_not_of_names() -> None:
    head = {"lm_head.weight": torch.ones(6, 4)}
    untied = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    for config in (None, untied, {**untied, "model_type": "mine", "tie_word_embeddings": True}):
        sources = {"own": TensorWeights({**tensors(), **head}), "none": TensorWeights(tensors(), config=config)}
        assert [entry.name for entry in Headers(sources).fit(["own", "none"]).missing] == ["lm_head.weight"]


def test_buffers_that_every_loader_computes_are_no_loss() -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    sources = {"a": TensorWeights({**tensors(), buffer: torch.ones(2)}), "b": TensorWeights(tensors())}
    fit = Headers(sources).fit(["a", "b"])
    assert not fit.missing
    assert [(entry.name, entry.absent) for entry in fit.recomputed] == [(buffer, ("b",))]


class _Counting(TensorWeights):
    asked = 0

    def names(self) -> tuple[str, ...]:
        self.asked += 1
        return super().names()


@pytest.mark.slow
def test_twelve_thousand_tensors_are_listed_a_few_times_not_once_each() -> None:
    made = {f"model.layers.{i}.mlp.experts.{e}.up_proj.weight": torch.ones(1, 2) for i in range(24) for e in range(500)}
    sources: dict[str, TensorWeights] = {"a": _Counting(made, "a"), "b": _Counting(made, "b")}
    plan = plan_merge(Recipe(method="task_arithmetic", base="a", models=["b"], parameters={"lambda": 1.0}), sources)
    assert len(plan.layout.outputs) == 12_000
    assert all(source.asked < 10 for source in sources.values())


def test_a_slice_that_finds_no_partner_says_so_too(save_model: Callable[..., Path]) -> None:
    recipe = Recipe(
        method="linear",
        slices=[
            {
                "sources": [
                    {"model": str(save_model("whole", tensors())), "layer_range": [0, 2]},
                    {"model": str(save_model("part", without(tensors(), "1.mlp"))), "layer_range": [0, 2]},
                ]
            }
        ],
        parameters={"weight": 1.0},
    )
    with pytest.raises(
        InputError, match=r"slices\[0\]: \S+part has no tensor model.layers.1.mlp.up_proj.weight"
    ) as caught:
        plan_merge(recipe)
    assert "run `genepool inspect" in caught.value.fix
