"""`genepool export --base`: adapters and skills of low rank in llama.cpp's form, and what has no such form."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "weights"))
from gguf_world import byte_level, tiny_model

from genepool.errors import InputError
from genepool.weights import open_weights
from genepool.weights.gguf.architectures import ARCHITECTURES, from_pairs

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base/` and adapters on it: `plain/`, `mixed/` with ranks and scales of its own, `norms/` with trained norms."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    tiny_model(folder / "base", "llama", byte_level("gpt-2"))
    settings: dict[str, dict[str, Any]] = {
        "plain": {"target_modules": ["q_proj", "down_proj"]},
        "mixed": {
            "target_modules": ["q_proj", "k_proj", "v_proj", "embed_tokens"],
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"k_proj": 3},
        },
        "norms": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    }
    for name, chosen in settings.items():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **chosen))
        for key, parameter in adapted.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.data = 0.3 * torch.randn(parameter.shape)
        adapted.save_pretrained(folder / name, save_embedding_layers=False)
    return folder


def _changes(path: Path) -> dict[str, torch.Tensor]:
    """What llama.cpp adds to each tensor, under transformers' names and in their order of rows."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    alpha = reader.fields["adapter.lora.alpha"].contents()
    found = {tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    (llama,) = (one for one in ARCHITECTURES if one.name == "llama")
    result = {}
    for name in {name.rpartition(".")[0] for name in found}:
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        product = alpha / b.shape[1] * (b @ (a.T if name == "token_embd.weight" else a))
        heads = llama.heads_of(name, HEADS)
        result[str(llama.name_of(name))] = from_pairs(product, heads) if heads else product
    return result


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_llama_cpp_adds_what_the_adapter_adds(name: str, world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out.gguf"
    answer = cli("export", world / name, out, "--base", world / "base", "--type", "f32", "--json", "-q")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["kind"], told["architecture"], told["type"]) == ("adapter", "llama", "f32")
    base = open_weights(world / "base")
    tuned = open_weights(f"{world / 'base'}+{world / name}")
    changes = _changes(out)
    moved = {tensor for tensor in tuned.names() if (tuned.delta(tensor, tuned.base) is not None)}  # type: ignore[attr-defined]
    assert set(changes) == moved
    for tensor, change in changes.items():
        expected = tuned.read(tensor) - base.read(tensor)
        assert torch.allclose(change, expected, atol=1e-5), tensor


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_factors_are_stored_as_asked(kind: str, world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from gguf import GGUFReader

    out = tmp_path / "out.gguf"
    assert cli("export", world / "plain", out, "--base", world / "base", "--type", kind).code == 0
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(out).tensors}
    assert kinds["blk.0.attn_q.weight.lora_a"] == kind.upper()
    # Rows of the rank's length are no whole blocks.
    assert kinds["blk.0.attn_q.weight.lora_b"] == ("F16" if kind == "q8_0" else kind.upper())
    exact = _exact(world, tmp_path, cli)
    for tensor, change in _changes(out).items():
        assert torch.allclose(change, exact[tensor], atol=0.05), tensor


def _exact(world: Path, folder: Path, cli: Callable[..., Any]) -> dict[str, torch.Tensor]:
    assert cli("export", world / "plain", folder / "exact.gguf", "--base", world / "base", "--type", "f32").code == 0
    return _changes(folder / "exact.gguf")


def test_a_skill_of_low_rank_is_an_adapter_too(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    skill, out = tmp_path / "skill.safetensors", tmp_path / "out.gguf"
    made = cli("skill", "convert", world / "plain", "--base", world / "base", "--to", "low-rank", "--out", skill)
    assert made.code == 0, made.err
    answer = cli("export", skill, out, "--base", world / "base", "--type", "f32")
    assert answer.code == 0, answer.err
    exact = _exact(world, tmp_path, cli)
    for tensor, change in _changes(out).items():
        assert torch.allclose(change, exact[tensor], atol=1e-5), tensor


def test_what_is_no_product_is_refused_by_name(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out.gguf"
    tuned = tiny_model(tmp_path / "tuned", "llama", byte_level("gpt-2"), seed=5)
    dense = tmp_path / "dense.safetensors"
    assert cli("skill", "extract", tuned, "--base", world / "base", "--out", dense, "-q").code == 0
    for change, said in (
        (world / "norms", "norm.weight: its change is not a product of two factors"),
        (dense, "weight: its change is not a product of two factors"),
        (tuned, "weight: its change is not a product of two factors"),
        (tmp_path / "gone", "the path does not exist"),
    ):
        answer = cli("export", change, out, "--base", world / "base")
        assert answer.code == 2
        assert said in answer.err
        assert not out.exists()
    alone = cli("export", world / "plain", out)
    assert alone.code == 2
    assert "is an adapter or a skill without a base" in alone.err


def test_an_adapter_in_gguf_is_no_model(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out.gguf"
    assert cli("export", world / "plain", out, "--base", world / "base").code == 0
    answer = cli("inspect", out)
    assert answer.code == 2
    assert "is an adapter or a skill without a base" in answer.err


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_an_adapter_in_gguf_is_read_back(name: str, world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out, base = tmp_path / "out.gguf", world / "base"
    assert cli("export", world / name, out, "--base", base, "--type", "f32").code == 0
    theirs, ours = open_weights(f"{base}+{out}"), open_weights(f"{base}+{world / name}")
    for tensor in ours.names():
        assert torch.allclose(theirs.read(tensor), ours.read(tensor), atol=1e-6), tensor
    assert theirs.fingerprint() != ours.fingerprint()
    back = tmp_path / "back"
    assert cli("skill", "convert", out, "--base", base, "--to", "peft", "--out", back).code == 0
    again = open_weights(f"{base}+{back}")
    for tensor in ours.names():
        assert torch.allclose(again.read(tensor), ours.read(tensor), atol=1e-5), tensor


def test_an_adapter_in_gguf_of_another_base_is_refused(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out.gguf"
    assert cli("export", world / "plain", out, "--base", world / "base").code == 0
    other = tiny_model(tmp_path / "other", "llama", byte_level("gpt-2"), hidden_size=32, num_hidden_layers=1)
    answer = cli("inspect", f"{other}+{out}")
    assert answer.code == 2
    assert f"{out}:" in answer.err
    assert "Name the base it was trained on" in answer.err


def test_a_factor_in_gguf_that_is_no_matrix_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "flat.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for end in ("lora_a", "lora_b"):
        writer.add_tensor(f"blk.0.attn_q.weight.{end}", np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.weight\.lora_b: factors \[16\] and \[16\] do not fit"):
        open_weights(f"{world / 'base'}+{tmp_path / 'flat.gguf'}")
