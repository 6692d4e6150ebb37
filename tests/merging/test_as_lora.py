"""Merges written as PEFT adapters: PEFT loads them, full rank is the merge, and what is lost is what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from genepool import seeding
from genepool.errors import InputError
from genepool.kernels import spectral
from genepool.merging import load_recipe, plan_merge, write_adapter
from genepool.weights import open_weights

Answer = Any
_SHARED = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip
_GPT2 = {"vocab_size": 23, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}


def _model(kind: str, **changes: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2, **changes))
    config = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "mixtral": transformers.MixtralConfig,
    }
    few = {"num_local_experts": 2} if kind == "mixtral" else {}
    return transformers.AutoModelForCausalLM.from_config(config[kind](**_SHARED, **few, **changes))


@pytest.fixture
def family(tmp_path: Path) -> Callable[..., Path]:
    """A recipe of a base and two fine-tunes of an architecture; `only` names what the fine-tunes changed."""

    def make(kind: str = "llama", only: str = "", parameters: dict[str, Any] | None = None, **changes: Any) -> Path:
        model = _model(kind, **changes)
        model.save_pretrained(tmp_path / "base")
        for seed, name in enumerate(("x", "y")):
            generator = torch.Generator().manual_seed(seed)
            tuned = _model(kind, **changes)
            with torch.no_grad():
                for key, value in tuned.named_parameters():
                    if only in key:
                        value += 0.05 * torch.randn(value.shape, generator=generator)
            tuned.save_pretrained(tmp_path / name)
        recipe = {"genepool": 1, "method": "task_arithmetic", "base": "base", "models": ["x", "y"]}
        recipe["parameters"] = {"lambda": 0.8, **(parameters or {})}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return tmp_path / "recipe.yaml"

    return make


def _logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(20).reshape(2, 10) % 23
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(tokens).logits
    return logits


def _with_peft(adapter: Path) -> Any:
    import peft

    return peft.AutoPeftModelForCausalLM.from_pretrained(adapter)


def _merged(recipe: Path) -> Any:
    import transformers

    from genepool.merging import run_plan

    out = run_plan(plan_merge(load_recipe(recipe)), recipe.parent / "merged", overwrite=True)
    return transformers.AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("qwen2", {}), ("gpt2", {"tie_word_embeddings": False}), ("llama", {"attention_bias": True})],
)
def test_at_full_rank_peft_computes_what_the_merge_does(
    family: Callable[..., Path], tmp_path: Path, kind: str, changes: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    recipe = family(kind, **changes)
    report = write_adapter(plan_merge(load_recipe(recipe)), tmp_path / "adapter", 64, verify=True)
    assert not report.left_out
    assert report.relative_error < 1e-5
    adapted = _with_peft(tmp_path / "adapter")
    assert not [str(w.message) for w in recwarn if "missing" in str(w.message) or "unexpected" in str(w.message)]
    expected = _logits(_merged(recipe))
    assert float((expected - _logits(_with_base(tmp_path))).abs().max()) > 0.1
    torch.testing.assert_close(_logits(adapted), expected, atol=1e-4, rtol=1e-4)
    ours = open_weights(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}")
    merged = open_weights(tmp_path / "merged")
    for name in merged.names():
        torch.testing.assert_close(ours.read(name), merged.read(name), atol=1e-5, rtol=1e-4)


def _with_base(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder / "base")


def test_a_bias_beside_a_matrix_that_stays_is_found_by_peft(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    recipe, moved = family("qwen2", only="up_proj"), "model.layers.0.self_attn.q_proj.bias"
    for name in ("x", "y"):
        tensors = load_file(tmp_path / name / "model.safetensors")
        tensors[moved] += 1.0
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
    answer = cli("merge", recipe, tmp_path / "merged-lora", "--as-lora", 16)
    assert answer.code == 0, answer.err
    expected = _merged(recipe)
    torch.testing.assert_close(_logits(_with_peft(tmp_path / "merged-lora")), _logits(expected), atol=1e-4, rtol=1e-4)
    skill = tmp_path / "s.safetensors"
    assert cli("skill", "extract", tmp_path / "merged", "--base", tmp_path / "base", "--out", skill).code == 0
    answer = cli("skill", "convert", skill, "--base", tmp_path / "base", "--to", "peft", "--out", tmp_path / "lora")
    assert answer.code == 0, answer.err
    torch.testing.assert_close(_logits(_with_peft(tmp_path / "lora")), _logits(expected), atol=1e-4, rtol=1e-4)


def test_what_is_lost_is_what_is_said(family: Callable[..., Path], tmp_path: Path) -> None:
    recipe = family()
    errors = []
    for rank in (1, 4, 12):
        out = tmp_path / f"adapter{rank}"
        report = write_adapter(plan_merge(load_recipe(recipe)), out, rank)
        written = open_weights(f"{tmp_path / 'base'}+{out}")
        base, merged = open_weights(tmp_path / "base"), plan_merge(load_recipe(recipe)).weights()
        lost = sum(float((merged.read(n) - written.read(n)).double().square().sum()) for n in base.names())
        change = sum(float((merged.read(n) - base.read(n)).double().square().sum()) for n in base.names())
        assert report.relative_error == pytest.approx((lost / change) ** 0.5, rel=1e-3)
        record = json.loads((out / "genepool.json").read_text())["adapter"]
        assert record["relative_error"] == report.relative_error
        assert sum(tensor["share"] for tensor in record["tensors"]) == pytest.approx(1)
        name = "model.layers.0.mlp.up_proj.weight"
        values = torch.linalg.svdvals((merged.read(name) - base.read(name)).double())
        best = float((values[rank:].square().sum() / values.square().sum()).sqrt())
        said = next(tensor for tensor in record["tensors"] if tensor["tensor"] == name)
        assert said["relative_error"] == pytest.approx(best, rel=1e-3)
        assert said["exact"]
        errors.append(report.relative_error)
    assert errors == sorted(errors, reverse=True)


def test_factors_are_balanced(family: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_adapter(plan_merge(load_recipe(family())), tmp_path / "adapter", 4)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    a, b = tensors[key.format("A")], tensors[key.format("B")]
    assert a.shape == (4, 16)
    torch.testing.assert_close(a @ a.mT, b.mT @ b, atol=1e-5, rtol=1e-4)


def test_changes_of_few_directions_take_few(family: Callable[..., Path], tmp_path: Path) -> None:
    recipe = family(only="self_attn.q_proj.weight")
    for name in ("x", "y"):
        _flatten_change(tmp_path, name)
    report = write_adapter(plan_merge(load_recipe(recipe)), tmp_path / "adapter", 8)
    assert report.rank == 2
    assert {held.name for held in report.tensors} == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj"]
    assert settings["r"] == settings["lora_alpha"] == 2
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")
    torch.testing.assert_close(
        _logits(_with_peft(tmp_path / "adapter")), _logits(_merged(recipe)), atol=1e-4, rtol=1e-4
    )


def _flatten_change(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    base, tuned = (load_file(folder / model / "model.safetensors") for model in ("base", name))
    for key, value in tuned.items():
        if "q_proj" in key:
            change = value - base[key]
            tuned[key] = base[key] + torch.outer(change[:, 0], change[0])
    save_file(tuned, folder / name / "model.safetensors", {"format": "pt"})


def test_ranks_differ_where_a_matrix_has_fewer_directions(family: Callable[..., Path], tmp_path: Path) -> None:
    # k_proj and v_proj are 8 x 16: they have 8 directions where the others have 16.
    recipe = family()
    write_adapter(plan_merge(load_recipe(recipe)), tmp_path / "adapter", 12)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 12
    expected = {f"model.layers.{i}.self_attn.{side}_proj": 8 for i in (0, 1) for side in "kv"}
    assert settings["rank_pattern"] == settings["alpha_pattern"] == expected
    adapted = _with_peft(tmp_path / "adapter").merge_and_unload()
    written = open_weights(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}")
    for name, value in adapted.state_dict().items():
        torch.testing.assert_close(value, written.read(name), atol=1e-5, rtol=1e-4)


def test_some_layers_are_named_in_full(family: Callable[..., Path], tmp_path: Path) -> None:
    recipe = family(only="layers.1.mlp")
    write_adapter(plan_merge(load_recipe(recipe)), tmp_path / "adapter", 64)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == [f"model.layers.1.mlp.{n}_proj" for n in ("down", "gate", "up")]
    torch.testing.assert_close(
        _logits(_with_peft(tmp_path / "adapter")), _logits(_merged(recipe)), atol=1e-4, rtol=1e-4
    )


def test_what_peft_cannot_hold_is_named_with_its_share(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    recipe = family("llama", tie_word_embeddings=True)
    answer = cli("merge", recipe, tmp_path / "adapter", "--as-lora", 64, "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["schema"] == 1
    assert said["left_out"] == ["model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" in answer.err
    assert said["kept"] == pytest.approx(1 - said["left_out_share"], abs=1e-6)
    assert "model.embed_tokens.weight" in (tmp_path / "adapter" / "README.md").read_text()
    assert open_weights(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}").name
    _with_peft(tmp_path / "adapter")


def test_routers_are_left_out_not_taken_for_linear_layers(family: Callable[..., Path], tmp_path: Path) -> None:
    report = write_adapter(plan_merge(load_recipe(family("mixtral"))), tmp_path / "adapter", 4)
    assert {held.name.rpartition(".")[0].rpartition(".")[2] for held in report.left_out} == {"gate"}
    _with_peft(tmp_path / "adapter")


def test_the_command_prints_what_is_kept(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("merge", family(), tmp_path / "adapter", "--as-lora", 2, "--verify")
    assert answer.code == 0, answer.err
    assert "rank 2" in answer.out
    assert "relative error" in answer.out
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "genepool.json", "README.md"
    }  # fmt: skip
    front = yaml.safe_load((tmp_path / "adapter" / "README.md").read_text().split("---")[1])
    assert front["base_model_relation"] == "adapter"
    assert front["library_name"] == "peft"
    again = cli("merge", tmp_path / "recipe.yaml", tmp_path / "adapter", "--as-lora", 2)
    assert again.code == 2
    assert "--overwrite" in again.err


@pytest.mark.parametrize("rank", [0, -3])
def test_no_rank_is_refused_and_leaves_nothing(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer], rank: int
) -> None:
    answer = cli("merge", family(), tmp_path / "adapter", f"--as-lora={rank}")
    assert answer.code == 2
    assert "--as-lora" in answer.err
    assert not (tmp_path / "adapter").exists()


def test_a_rank_beyond_every_side_is_cut_with_a_note(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("merge", family(), tmp_path / "adapter", "--as-lora", 1000)
    assert "rank 16 instead of 1000" in " ".join(answer.err.split())


def test_merges_no_adapter_can_stand_for_are_refused(family: Callable[..., Path], tmp_path: Path) -> None:
    recipe = family()
    data = yaml.safe_load(recipe.read_text())

    def refused(match: str, **changes: Any) -> None:
        recipe.write_text(yaml.safe_dump({key: v for key, v in {**data, **changes}.items() if v is not None}))
        with pytest.raises(InputError, match=match):
            write_adapter(plan_merge(load_recipe(recipe)), tmp_path / "adapter", 4)
        assert not (tmp_path / "adapter").exists()
        assert not list(tmp_path.glob(".adapter*"))

    refused("names none", method="linear", base=None, parameters={})
    layers = [{"sources": [{"model": "x", "layer_range": [0, 1]}]}]
    refused("other ways than values", method="passthrough", models=None, slices=layers, parameters={})
    refused(
        "no weight matrix that PEFT can adapt",
        parameters={"lambda": [{"filter": "norm", "value": 1.0}, {"value": 0.0}]},
    )
    shutil.copytree(tmp_path / "x", tmp_path / "z")
    write_adapter(plan_merge(load_recipe(family())), tmp_path / "first", 2)
    refused("a change on a model", base="base+first", models=["z"])


def test_the_randomised_factors_come_close_to_the_best_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 80, generator=generator)).Q for n in (120, 90))
    values = torch.arange(1.0, 81) ** -0.7
    matrix = left * values @ right.mT
    monkeypatch.setattr(spectral, "_EXACT_SIDE", 10)
    factors, exact = spectral.low_rank(matrix, 8, seeding.torch_generator(0, "a"))
    assert not exact
    error = float((matrix - factors.left * factors.values @ factors.right).norm())
    assert error <= 1.001 * float(values[8:].norm())
    again, _ = spectral.low_rank(matrix, 8, seeding.torch_generator(0, "a"))
    assert torch.equal(factors.left, again.left)
    assert spectral.low_rank(matrix, 30, seeding.torch_generator(0, "a"))[1]


def test_an_adapter_minds_the_device_and_the_largest_file(
    family: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    call = ("merge", family(), tmp_path / "out", "--as-lora", 2, "--quiet")
    for flags, said in (
        (("--device", "nonsense"), "--device: got 'nonsense', which cannot be used here"),
        (("--out-shard-size", "1KB"), "Raise --out-shard-size, or lower the rank"),
    ):
        answer = cli(*call, *flags)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert said in answer.err
        assert not (tmp_path / "out").exists()
    assert cli(*call, "--device", "cpu", "--out-shard-size", "1MB").code == 0
