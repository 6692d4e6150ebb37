"""Adapters that PEFT's merge of the saved file makes another model of: the merge is the model that was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.weights.peft.kinds import unilora

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
_TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip


def _laguna() -> Any:
    from transformers import LagunaConfig, LagunaForCausalLM

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    layers = {"num_attention_heads_per_layer": [2, 2], "layer_types": ["full_attention"] * 2}
    return LagunaForCausalLM(
        LagunaConfig(**{**_TEXT, **experts, **layers}, shared_expert_intermediate_size=8, mlp_layer_types=None)
    )


def _pi0() -> Any:
    from transformers import PI0Config, PI0ForConditionalGeneration

    vlm = {
        "model_type": "paligemma", "text_config": {**_TEXT, "model_type": "gemma"}, "projection_dim": 16,
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"}, "image_token_id": 3,
    }  # fmt: skip
    return PI0ForConditionalGeneration(
        PI0Config(vlm_config=vlm, dit_config={**_TEXT, "model_type": "gemma"}, max_state_dim=4, max_action_dim=4)
    )


def _zamba2() -> Any:
    from transformers import Zamba2Config, Zamba2ForCausalLM

    blocks = ["hybrid", "linear_attention", "hybrid", "hybrid"]
    mamba = {"mamba_d_state": 4, "mamba_headdim": 16, "n_mamba_heads": 2, "chunk_size": 8, "adapter_rank": 4}
    sizes = {"num_hidden_layers": 4, "attention_hidden_size": 32, "attention_head_dim": 16}
    return Zamba2ForCausalLM(
        Zamba2Config(**{**_TEXT, **sizes, **mamba}, layers_block_type=blocks, num_mem_blocks=1, use_mamba_kernels=False)
    )


def _blip() -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {**_TEXT, "encoder_hidden_size": 16, "projection_dim": 16, "sep_token_id": 2, "is_decoder": True}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=_VISION, projection_dim=16))


def _adapted(model: Any, folder: Path, **settings: Any) -> Any:
    """The live model with an adapter of random numbers; base and adapter are saved."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder / "base")
    live = get_peft_model(
        type(model).from_pretrained(folder / "base"), LoraConfig(**{"r": 2, "target_modules": "all-linear", **settings})
    )
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    live.save_pretrained(folder / "adapter")
    return live.eval()


def _merged(cli: Callable[..., Any], folder: Path, cls: Any) -> Any:
    recipe = {"genepool": 1, "method": "linear", "models": [f"{folder / 'base'}+{folder / 'adapter'}"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("merge", folder / "recipe.yaml", folder / "out")
    assert answer.code == 0, answer.err
    merged, info = cls.from_pretrained(folder / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return merged.eval()


def _config(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "out" / "config.json").read_text())
    return said


@pytest.mark.parametrize("build", [_laguna, _pi0])
def test_factors_that_peft_does_not_load_again_are_merged(cli: Any, tmp_path: Path, build: Callable[[], Any]) -> None:
    """The loader's renamings take their own names in memory for old ones; PEFT applies them to the adapter's names."""
    model = build()
    live = _adapted(model, tmp_path)
    merged = _merged(cli, tmp_path, type(model))
    wanted = live.merge_and_unload().state_dict()
    torch.testing.assert_close(merged.state_dict(), wanted, atol=1e-5, rtol=0)
    base = type(model).from_pretrained(tmp_path / "base").state_dict()
    moved = {name for name, value in wanted.items() if not value.equal(base[name])}
    assert any("shared_experts" in name or "action_in_proj" in name for name in moved)


@pytest.mark.parametrize("target", ["all-linear", ["down_proj"]])
def test_a_block_that_layers_share_is_one_of_each_layer_s_own(cli: Any, tmp_path: Path, target: Any) -> None:
    model = _zamba2()
    live = _adapted(model, tmp_path, target_modules=target)
    merged = _merged(cli, tmp_path, type(model))
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, live(IDS).logits, atol=2e-5, rtol=1e-5)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.{}.shared_transformer.feed_forward.down_proj.weight"
    assert not stored[name.format(0)].equal(stored[name.format(2)])
    assert _config(tmp_path)["tie_word_embeddings"] is False


def test_a_shared_block_that_the_adapter_leaves_alone_stays_one(cli: Any, tmp_path: Path) -> None:
    model = _zamba2()
    live = _adapted(model, tmp_path, target_modules=["in_proj"])
    merged = _merged(cli, tmp_path, type(model))
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, live(IDS).logits, atol=2e-5, rtol=1e-5)
    stored = [load_file(tmp_path / one / "model.safetensors").keys() for one in ("base", "out")]
    assert stored[0] == stored[1]


def test_a_head_that_the_class_does_not_name_is_untied(cli: Any, tmp_path: Path) -> None:
    model = _blip()
    live = _adapted(model, tmp_path)
    merged = _merged(cli, tmp_path, type(model))
    inputs = {"input_ids": IDS, "pixel_values": torch.ones(1, 3, 8, 8)}
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, live(**inputs).logits, atol=2e-5, rtol=1e-5)
    assert _config(tmp_path)["tie_word_embeddings"] is False


def test_a_head_whose_module_has_another_name_in_the_file(cli: Any, tmp_path: Path) -> None:
    """Layers have the names of memory in the file, the head has not: the layout is told by all names."""
    from peft import PeftModel
    from transformers import UltraVBertConfig, UltraVBertForMaskedLM

    text = {key: value for key, value in _TEXT.items() if key not in ("num_key_value_heads", "head_dim")}
    config = UltraVBertConfig(text_config={**text, "prediction_head_size": 16}, vision_config=_VISION, image_token_id=3)
    _adapted(UltraVBertForMaskedLM(config), tmp_path)
    merged = _merged(cli, tmp_path, UltraVBertForMaskedLM)
    base = UltraVBertForMaskedLM.from_pretrained(tmp_path / "base")
    wanted = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    torch.testing.assert_close(merged.state_dict(), wanted.state_dict(), atol=1e-5, rtol=0)
    names = [load_file(tmp_path / one / "model.safetensors").keys() for one in ("base", "out")]
    assert names[0] == names[1]


def test_places_that_are_drawn_anew_are_bounded(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank of a Uni-LoRA stands in its settings alone, so a small file could ask for any amount of memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**_TEXT)).save_pretrained(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"base_model.unilora_theta_d": torch.ones(4)}, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "UNILORA", "target_modules": ["q_proj"], "r": 8, "proj_seed": 1}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: ['{tmp_path / 'base'}+{adapter}']\n")
    answer = cli("plan", recipe)
    assert answer.code == 0, answer.err
    entries = 8 * 2 * _TEXT["hidden_size"] * _TEXT["num_hidden_layers"]
    monkeypatch.setattr(unilora, "MOST_DRAWN", entries - 1)
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert f"adapter_config.json:r: the places of {entries:,} entries would be drawn, and at most" in answer.err
    assert not (tmp_path / "out").exists()
