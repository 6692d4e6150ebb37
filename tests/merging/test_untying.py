"""Which tensors of a merge are one: models that tie, that do not, and that were untied by their training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

LLAMA = {"vocab_size": 24, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def llama(folder: Path, seed: int, *, tied: bool, config: dict[str, Any] | None = None) -> Path:
    """A random Llama near all the others, saved by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if config:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **config}))
    return folder


@pytest.fixture
def merge(tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Any]:
    def run(**recipe: Any) -> Any:
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"genepool": 1, "method": "linear", **recipe}))
        return cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--overwrite")

    return run


def made(tmp_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = tmp_path / "out"
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", ["tied", "untied", "two that differ", "two that are equal", "equal and untied"])
def test_the_merge_of_one_model_is_that_model(tmp_path: Path, merge: Callable[..., Any], kind: str) -> None:
    folder = llama(tmp_path / "a", 1, tied=kind in ("tied", "two that are equal"))
    file = folder / "model.safetensors"
    if kind == "two that differ":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    elif kind.endswith("equal") or kind.startswith("equal"):
        tensors = load_file(file)
        save_file({**tensors, HEAD: tensors[EMBED].clone()}, file, {"format": "pt"})
    assert merge(models=["a"]).code == 0
    tensors, config = made(tmp_path)
    assert same(tensors, load_file(file))
    assert config["tie_word_embeddings"] == json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert same(loaded(tmp_path / "out"), loaded(folder))


@pytest.mark.parametrize("base_is_tied", [True, False])
def test_a_fine_tune_with_a_head_of_its_own_on_a_tied_base(
    tmp_path: Path, merge: Callable[..., Any], base_is_tied: bool
) -> None:
    folders = [llama(tmp_path / name, seed, tied=tied) for name, seed, tied in (("t", 1, True), ("u", 2, False))]
    tied, untied = map(loaded, folders)
    names = ["t", "u"] if base_is_tied else ["u", "t"]
    assert merge(models=names, dtype="float32").code == 0
    tensors, config = made(tmp_path)
    assert config["tie_word_embeddings"] is False
    for name in (EMBED, HEAD):
        torch.testing.assert_close(tensors[name], (tied[name] + untied[name]) / 2)
    assert same(loaded(tmp_path / "out"), tensors)


def test_a_head_stored_against_the_config_is_merged_as_what_it_is(tmp_path: Path, merge: Callable[..., Any]) -> None:
    """A merged adapter with a head of its own, on a tied base: both files say that they tie."""
    llama(tmp_path / "base", 1, tied=True)
    tuned = loaded(llama(tmp_path / "tuned", 2, tied=False, config={"tie_word_embeddings": True}))
    assert merge(method="task_arithmetic", base="base", models=["tuned"], parameters={"lambda": 1.0}).code == 0
    result = loaded(tmp_path / "out")
    assert not result[HEAD].equal(result[EMBED])
    for name, value in tuned.items():
        torch.testing.assert_close(result[name], value)
    # Loaders that go by the config alone must not tie it again.
    assert made(tmp_path)[1]["tie_word_embeddings"] is False


def test_the_key_of_a_config_inside_is_the_one_that_is_changed(tmp_path: Path, merge: Callable[..., Any]) -> None:
    from transformers import AutoModelForImageTextToText, Gemma3Config, Gemma3ForConditionalGeneration

    text = {**LLAMA, "num_key_value_heads": 2, "head_dim": 4}
    vision = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    special = {"image_token_index": 20, "boi_token_index": 21, "eoi_token_index": 22, "mm_tokens_per_image": 4}
    for seed, name in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        config = Gemma3Config(text_config=text, vision_config=vision, **special)
        Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / name)
    file = tmp_path / "tuned" / "model.safetensors"
    tensors = load_file(file)
    embed = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file({**tensors, HEAD: tensors[embed] + 1}, file, {"format": "pt"})
    assert merge(models=["base", "tuned"]).code == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert not model.lm_head.weight.equal(model.get_input_embeddings().weight)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said.get("tie_word_embeddings") is False or said["text_config"].get("tie_word_embeddings") is False


def test_a_head_where_the_base_s_class_ties_nothing_is_missing(tmp_path: Path, merge: Callable[..., Any]) -> None:
    """A body without a head, and a config of no known class, have nothing that stands for one."""
    llama(tmp_path / "a", 1, tied=False)
    for config in ({"architectures": ["LlamaModel"]}, {"model_type": "mine", "architectures": ["MineForCausalLM"]}):
        llama(tmp_path / "b", 2, tied=True, config=config)
        answer = merge(models=["a", "b"])
        assert answer.code == 2
        assert "lm_head.weight" in answer.err.splitlines()[-1]


def test_a_config_that_names_no_known_class_is_merged_tensor_by_tensor_with_a_note(
    tmp_path: Path, merge: Callable[..., Any]
) -> None:
    mine = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": {"AutoModel": "mine.Mine"}}
    for seed, name in enumerate(("a", "b")):
        llama(tmp_path / name, seed, tied=False, config=mine)
    answer = merge(models=["a", "b"])
    assert answer.code == 0
    assert "note: a and b: transformers knows no model_type 'mine'; merged tensor by tensor" in answer.err
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    torch.testing.assert_close(made(tmp_path)[0], {name: (a[name] + b[name]) / 2 for name in a})


def test_a_buffer_that_the_class_no_longer_stores_is_left_out(tmp_path: Path, merge: Callable[..., Any]) -> None:
    for seed, name in enumerate(("a", "b")):
        llama(tmp_path / name, seed, tied=True)
    file = tmp_path / "a" / "model.safetensors"
    save_file(
        {**load_file(file), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, file, {"format": "pt"}
    )
    answer = merge(models=["a", "b"])
    assert answer.code == 0
    assert "rotary_emb.inv_freq is left out: b does not store it" in answer.err
