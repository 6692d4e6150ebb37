"""`genepool export` and back: the same tensors, the same tokens, the same words; and what llama.cpp has no form for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "weights"))
from gguf_world import PROMPTS, byte_level, sentencepiece, tiny_model

from genepool.weights import open_weights

MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda folder: tiny_model(folder, "llama", byte_level("llama-bpe"), attention_bias=True, mlp_bias=True),
    "qwen2": lambda folder: tiny_model(folder, "qwen2", byte_level("qwen2"), tie_word_embeddings=True),
    "qwen3": lambda folder: tiny_model(folder, "qwen3", byte_level("qwen2"), head_dim=32),
    "wide": lambda folder: tiny_model(folder, "qwen3", byte_level("qwen2"), head_dim=128),
    "pieces": lambda folder: tiny_model(folder, "llama", sentencepiece(), num_key_value_heads=4),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    for name, make in MODELS.items():
        make(folder / name)
    return folder


def _written(cli: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    answer = cli("export", *arguments, "--json", "--quiet")
    assert answer.code == 0, answer.err
    result: dict[str, Any] = json.loads(answer.out)
    return result


def _generated(cli: Callable[..., Any], model: Path) -> list[str]:
    asked = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    answer = cli("generate", model, *asked, "--max-new-tokens", 8, "--json", "-q")
    assert answer.code == 0, answer.err
    return [one["output"] for one in json.loads(answer.out)["results"]]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_exported_opens_as_the_same_model(
    name: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    out = tmp_path / "out.gguf"
    told = _written(cli, world / name, out, "--type", "f32")
    original, read = open_weights(world / name), open_weights(out)
    assert told == {
        "schema": 1,
        "out": str(out),
        "kind": "model",
        "architecture": json.loads((world / name / "config.json").read_text())["model_type"],
        "type": "f32",
        "tensors": len(original.names()),
        "bytes": out.stat().st_size,
    }
    assert set(read.names()) == set(original.names())
    for tensor in original.names():
        assert torch.equal(read.read(tensor), original.read(tensor)), tensor
    assert read.fingerprint() == original.fingerprint()
    assert _generated(cli, out) == _generated(cli, world / name)


@pytest.mark.parametrize("name", MODELS)
def test_the_tokenizer_and_the_settings_come_back(
    name: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    _written(cli, world / name, tmp_path / "out.gguf")
    read = open_weights(tmp_path / "out.gguf")
    mine, theirs = AutoTokenizer.from_pretrained(read.folder), AutoTokenizer.from_pretrained(world / name)
    for prompt in (*PROMPTS, "  two spaces", "", "line\n"):
        assert mine(prompt).input_ids == theirs(prompt).input_ids, prompt
        ids = theirs(prompt).input_ids
        assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert (mine.bos_token, mine.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert mine.chat_template == theirs.chat_template
    now, then = AutoConfig.from_pretrained(read.folder), AutoConfig.from_pretrained(world / name)
    for key in ("hidden_size", "intermediate_size", "num_key_value_heads", "tie_word_embeddings", "rope_parameters"):
        assert getattr(now, key) == getattr(then, key), key
    assert now.rms_norm_eps == then.rms_norm_eps
    assert getattr(now, "head_dim", None) in (None, getattr(then, "head_dim", None), 16)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_every_type_reads_as_the_gguf_package_and_transformers_read_it(
    name: str, kind: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out.gguf"
    _written(cli, world / name, out, "--type", kind)
    read = open_weights(out)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(out).tensors}
    assert {kinds[one] for one in kinds if "norm" in one or one.endswith("bias")} == {"F32"}
    assert {kinds[one] for one in kinds if "norm" not in one and not one.endswith("bias")} == {kind.upper()}
    plain = next(one for one in GGUFReader(out).tensors if one.name == "blk.1.ffn_down.weight")
    values = torch.tensor(dequantize(plain.data, plain.tensor_type))
    assert torch.equal(read.read("model.layers.1.mlp.down_proj.weight").float(), values)
    if name in ("llama", "qwen3"):
        return  # transformers reads neither the biases of a Llama nor the width of a Qwen3's heads
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype=torch.float32).state_dict()
    for tensor in read.names():
        assert torch.equal(read.read(tensor).float(), loaded[tensor]), tensor


def test_rows_and_bytes_are_those_of_the_whole(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Streaming gives any rows, also of the tensors that llama.cpp orders otherwise and of those it quantises."""
    for kind in ("f16", "q8_0"):
        _written(cli, world / "llama", tmp_path / f"{kind}.gguf", "--type", kind)
        read = open_weights(tmp_path / f"{kind}.gguf")
        for name in read.names():
            whole, (rows, _) = read.read(name).reshape(read.info(name).matrix), read.info(name).matrix
            for start, stop in ((0, rows), (rows // 3, rows // 3 + 1), (rows // 2, rows)):
                assert torch.equal(read.read_rows(name, start, stop), whole[start:stop]), name
                if (stored := read.stored_in(name)) is not None:
                    into = bytearray(whole[start:stop].numel() * whole.element_size())
                    stored[0].read_bytes(stored[1], start, stop, memoryview(into))
                    assert torch.equal(torch.frombuffer(into, dtype=whole.dtype), whole[start:stop].reshape(-1))


def test_it_merges_and_gives_a_skill_like_the_folder_it_came_from(
    world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    other = tiny_model(tmp_path / "other", "qwen3", byte_level("qwen2"), head_dim=32, seed=1)
    for name, folder in (("a", world / "qwen3"), ("b", other)):
        _written(cli, folder, tmp_path / f"{name}.gguf", "--type", "f32")
    for out, models in (("one", (world / "qwen3", other)), ("two", (tmp_path / "a.gguf", tmp_path / "b.gguf"))):
        recipe = {"genepool": 1, "method": "linear", "models": [str(model) for model in models]}
        (tmp_path / f"{out}.yaml").write_text(json.dumps(recipe))
        assert cli("merge", tmp_path / f"{out}.yaml", tmp_path / out, "-q").code == 0
    assert open_weights(tmp_path / "one").fingerprint() == open_weights(tmp_path / "two").fingerprint()
    assert (tmp_path / "two" / "tokenizer.json").is_file()
    assert _generated(cli, tmp_path / "one") == _generated(cli, tmp_path / "two")
    skill = tmp_path / "skill.safetensors"
    extracted = cli("skill", "extract", tmp_path / "two", "--base", tmp_path / "a.gguf", "--out", skill, "-q")
    assert extracted.code == 0, extracted.err
    answer = cli("inspect", tmp_path / "a.gguf", world / "qwen3", "--json", "-q")
    assert answer.code == 0, answer.err
    # What is named with "+" is exported as it is opened.
    told = _written(cli, f"{tmp_path / 'a.gguf'}+{skill}", tmp_path / "sum.gguf", "--type", "f32")
    assert told["kind"] == "model"
    assert torch.allclose(
        open_weights(tmp_path / "sum.gguf").read("model.norm.weight"),
        open_weights(tmp_path / "two").read("model.norm.weight"),
    )


def test_a_folder_with_both_opens_its_safetensors(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    import shutil

    both = tmp_path / "both"
    shutil.copytree(world / "qwen2", both)
    _written(cli, world / "qwen3", both / "other.gguf")
    assert open_weights(both).fingerprint() == open_weights(world / "qwen2").fingerprint()
    (both / "model.safetensors").unlink()
    assert open_weights(both).config["model_type"] == "qwen3"  # type: ignore[index]


ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_the_scaling_of_rotary_positions_travels(kind: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from transformers import AutoConfig

    model = tiny_model(tmp_path / "model", "llama", byte_level("gpt-2"), rope_parameters=ROPES[kind])
    _written(cli, model, tmp_path / "out.gguf", "--type", "f32")
    read = AutoConfig.from_pretrained(open_weights(tmp_path / "out.gguf").folder).rope_parameters
    assert {key: read[key] for key in ROPES[kind]} == ROPES[kind]
    assert _generated(cli, tmp_path / "out.gguf") == _generated(cli, model)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "smollm"])
def test_every_way_to_split_text_comes_back(pre: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from genepool.weights.gguf.tokenizer_writing import tokenizer_values

    tokenizer = byte_level(pre)
    tokenizer.save_pretrained(tmp_path)
    values = tokenizer_values(tmp_path, len(tokenizer))
    assert values["tokenizer.ggml.pre"] == pre
    assert AutoTokenizer.from_pretrained(tmp_path)("a").input_ids


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another class": ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel has no form in GGUF here"),
    "no class": ({"architectures": None}, "a model without an architecture"),
    "an activation": ({"hidden_act": "gelu"}, "llama.cpp has no hidden_act 'gelu' here"),
    "a window": ({"use_sliding_window": True, "sliding_window": 8}, "no attention within 8 tokens"),
    "a rope": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "no rope scaling 'dynamic'"),
    "no window": ({"use_sliding_window": True, "sliding_window": "8"}, "sliding_window: got '8'"),
    "ropes as a number": ({"rope_parameters": 8}, "rope_parameters: got 8, expected a mapping"),
    "an older rope": ({"rope_parameters": None, "rope_scaling": [8]}, "rope_scaling: got [8], expected a mapping"),
    "a yarn": ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": "x"}},
               "original_max_position_embeddings: got 'x'"),
    "a width": ({"head_dim": [32]}, "head_dim: got [32]"),
    "a factor": ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, "factor: got 'x'"),
    "a part rotated": ({"partial_rotary_factor": 0.5}, "rotates whole heads"),
    "a count": ({"num_hidden_layers": 0}, "num_hidden_layers: got 0"),
    "more layers": ({"num_hidden_layers": 3}, "lacks blk.2."),
    "fewer layers": ({"num_hidden_layers": 1}, "config.json says 1 layers"),
    "packed": ({"quantization_config": {"quant_method": "hqq"}}, "is a quantised model"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_llama_cpp_has_no_form_for_is_refused_by_name(
    why: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    changes, said = REFUSED[why]
    model = tmp_path / "model"
    model.mkdir()
    for file in (world / "qwen3").iterdir():
        (model / file.name).symlink_to(file)
    config = {**json.loads((world / "qwen3" / "config.json").read_text()), **changes}
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config))
    answer = cli("export", model, tmp_path / "out.gguf")
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_tensors_without_a_place_are_refused(tmp_path: Path, cli: Callable[..., Any]) -> None:
    biased = tiny_model(tmp_path / "biased", "qwen3", byte_level("qwen2"), attention_bias=True)
    answer = cli("export", biased, tmp_path / "out.gguf")
    assert answer.code == 2
    assert "_proj.bias: llama.cpp has no place for it in a model of qwen3" in answer.err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(
    value: float, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for file in (world / "qwen3").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    answer = cli("export", model, tmp_path / "out.gguf")
    assert answer.code == 2
    assert "model.layers.1.mlp.up_proj.weight: holds NaN or infinity" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    answer = cli("export", model, tmp_path / "out.gguf", "--type", "f16")
    assert answer.code == 2
    assert "which its type cannot represent. Use --type bf16 or f32" in answer.err


def test_rows_that_are_no_whole_blocks_stay_in_f16(tmp_path: Path, cli: Callable[..., Any]) -> None:
    from gguf import GGUFReader

    model = tiny_model(tmp_path / "model", "qwen3", byte_level("qwen2"), intermediate_size=72)
    _written(cli, model, tmp_path / "out.gguf", "--type", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_tokenizers_without_a_form_are_refused(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from tokenizers import pre_tokenizers

    model = tmp_path / "model"
    model.mkdir()
    for file in (world / "qwen3").iterdir():
        (model / file.name).write_bytes(file.read_bytes())

    def refused(said: str) -> None:
        answer = cli("export", model, tmp_path / "out.gguf")
        assert answer.code == 2
        assert said in answer.err
        assert not (tmp_path / "out.gguf").exists()

    whole = (model / "tokenizer.json").read_text()
    parts = json.loads(whole)
    other = json.loads(pre_tokenizers.ByteLevel(add_prefix_space=True).__getstate__())
    for key, value, said in (
        ("pre_tokenizer", other, "splits text in a way that is none of gpt-2, llama-bpe"),
        ("normalizer", {"type": "Lowercase"}, "changes text first (Lowercase)"),
        ("decoder", {"type": "Fuse"}, "a BPE of characters without bytes to fall back on"),
        ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "a tokenizer of kind WordLevel"),
    ):
        (model / "tokenizer.json").write_text(json.dumps({**parts, key: value}))
        refused(said)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (model / file).unlink()
    refused("has no tokenizer")


def test_a_file_without_a_tokenizer_cannot_be_asked(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Such a file is a model all the same: it opens, and is not exported again."""
    from gguf import GGUFReader, GGUFWriter

    _written(cli, world / "qwen3", tmp_path / "whole.gguf", "--type", "f32")
    whole, bare = GGUFReader(tmp_path / "whole.gguf"), GGUFWriter(tmp_path / "bare.gguf", "qwen3")
    for key, field in whole.fields.items():
        if key.startswith("qwen3."):
            bare.add_key_value(key, field.contents(), field.types[0])
    for tensor in whole.tensors:
        bare.add_tensor(tensor.name, tensor.data)
    bare.write_header_to_file()
    bare.write_kv_data_to_file()
    bare.write_tensors_to_file()
    bare.close()
    assert open_weights(tmp_path / "bare.gguf").fingerprint() == open_weights(world / "qwen3").fingerprint()
    for command in (("generate", "bare.gguf", "--prompt", "a"), ("export", "bare.gguf", "o.gguf")):
        answer = cli(command[0], tmp_path / command[1], *command[2:])
        assert answer.code == 2
        assert "has no tokenizer" in answer.err


def test_merges_that_no_sentencepiece_model_has_are_refused(tmp_path: Path, cli: Callable[..., Any]) -> None:
    model = tiny_model(tmp_path / "model", "llama", sentencepiece())
    parts = json.loads((model / "tokenizer.json").read_text())
    parts["model"]["merges"].pop()
    (model / "tokenizer.json").write_text(json.dumps(parts))
    answer = cli("export", model, tmp_path / "out.gguf")
    assert answer.code == 2
    assert "unlike a SentencePiece model" in answer.err


def test_bad_arguments(world: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.gguf"
    for arguments, said in (
        ((world / "qwen3", tmp_path / "out.bin"), "the name must end in .gguf"),
        ((world / "qwen3", out, "--type", "q4_k"), "got 'q4_k', expected f32, f16, bf16, q8_0"),
        ((tmp_path / "none", out), "the path does not exist"),
    ):
        answer = cli("export", *arguments)
        assert answer.code == 2
        assert said in answer.err
    out.write_text("something")
    assert cli("export", world / "qwen3", out).code == 2
    assert out.read_text() == "something"
    assert cli("export", world / "qwen3", out, "--overwrite", "--quiet").code == 0
    assert "model, 25 tensors" in cli("export", world / "qwen3", tmp_path / "again.gguf").out
    monkeypatch.setitem(sys.modules, "gguf", None)
    answer = cli("export", world / "qwen3", tmp_path / "third.gguf")
    assert answer.code == 2
    assert "pip install 'genepool[gguf]'" in answer.err


def test_pickled_weights_are_exported_where_they_are_allowed(
    world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file

    model = tmp_path / "model"
    model.mkdir()
    for file in (world / "qwen3").iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(world / "qwen3" / "model.safetensors"), model / "pytorch_model.bin")
    assert cli("export", model, tmp_path / "out.gguf").code == 2
    _written(cli, model, tmp_path / "out.gguf", "--type", "f32", "--allow-pickle")
    assert open_weights(tmp_path / "out.gguf").fingerprint() == open_weights(world / "qwen3").fingerprint()
