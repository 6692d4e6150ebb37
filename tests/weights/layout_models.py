"""Tiny models of transformers' own classes whose files and memory name or lay out tensors differently, and their files
in every layout that people have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_ROTARY = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
_QWEN_VISION: dict[str, Any] = {
    "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
}  # fmt: skip

Make = Callable[[Any], Any]


def _of(name: str, config: str, **settings: Any) -> Make:
    return lambda tf: getattr(tf, name)(getattr(tf, config)(**settings))


def _llava(tf: Any) -> Any:
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**_VISION), text_config=tf.LlamaConfig(**SIZES), image_token_index=50
    )
    return tf.LlavaForConditionalGeneration(config)


def _wav2vec2(tf: Any) -> Any:
    config = tf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8),
        conv_stride=(2, 2), conv_kernel=(3, 3), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return tf.Wav2Vec2Model(config)


# Their files differ from memory in prefixes, in names, in what is stacked, fused or turned; some not at all.
MODELS: dict[str, Make] = {
    "gpt2": _of("GPT2LMHeadModel", "GPT2Config", vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=32),
    "bert": _of("BertForSequenceClassification", "BertConfig", **SIZES),
    "llama": _of("LlamaForCausalLM", "LlamaConfig", **SIZES),
    "phi3": _of("Phi3ForCausalLM", "Phi3Config", **SIZES),
    "mixtral": _of("MixtralForCausalLM", "MixtralConfig", **SIZES, num_local_experts=4),
    "qwen2_moe": _of(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", **SIZES, num_experts=4, moe_intermediate_size=16,
        num_experts_per_tok=2, shared_expert_intermediate_size=24,
    ),
    "qwen3_moe": _of(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **SIZES, num_experts=4, moe_intermediate_size=16,
        num_experts_per_tok=2,
    ),
    "olmoe": _of("OlmoeForCausalLM", "OlmoeConfig", **SIZES, num_experts=4, num_experts_per_tok=2),
    "phimoe": _of("PhimoeForCausalLM", "PhimoeConfig", **SIZES, num_local_experts=4),
    "jamba": _of(
        "JambaForCausalLM", "JambaConfig", **SIZES, num_experts=4, use_mamba_kernels=False, mamba_d_state=4,
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
    ),
    "granitemoe": _of("GraniteMoeForCausalLM", "GraniteMoeConfig", **SIZES, num_local_experts=4),
    "llava": _llava,
    "qwen2_vl": _of(
        "Qwen2VLForConditionalGeneration", "Qwen2VLConfig", text_config={**SIZES, **_ROTARY},
        vision_config=_QWEN_VISION, image_token_id=50, video_token_id=51, vision_start_token_id=52,
        vision_end_token_id=53,
    ),
    "clip": _of(
        "CLIPModel", "CLIPConfig", vision_config=_VISION, projection_dim=8,
        text_config={k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    ),
    "vit": _of("ViTForImageClassification", "ViTConfig", **_VISION),
    "detr": _of(
        "DetrForObjectDetection", "DetrConfig", d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=5,
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                         "out_features": ["stage2"], "layer_type": "basic"},
    ),
    "wav2vec2": _wav2vec2,
}  # fmt: skip


def build(name: str, seed: int = 0) -> Any:
    """A model with values drawn anew everywhere, norms included."""
    import transformers

    torch.manual_seed(seed)
    model = MODELS[name](transformers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """As transformers saves it: the layout of the files on the hub."""
    model.save_pretrained(folder)
    return folder


def save_as(model: Any, folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """The model with its tensors as they are given."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(folder / "config.json")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """What the file holds."""
    return dict(load_file(folder / "model.safetensors"))


def in_memory(model: Any) -> dict[str, torch.Tensor]:
    """The tensors as the class names them, tied ones once, as `torch.save(model.state_dict())` has them."""
    first: dict[int, str] = {}
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if first.setdefault(tensor.data_ptr(), name) == name}


def without_prefix(model: Any) -> dict[str, torch.Tensor]:
    """As the body alone is saved, the head beside it."""
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): tensor for name, tensor in in_memory(model).items()}


def as_old_tensorflow(model: Any) -> dict[str, torch.Tensor]:
    """With the names layer norms had in BERT's first files."""
    names = ((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))
    found = {}
    for name, tensor in in_memory(model).items():
        for new, old in names:
            name = re.sub(new, old, name)
        found[name] = tensor
    return found


def as_old_weight_norm(model: Any) -> dict[str, torch.Tensor]:
    """With the names torch's older weight_norm gave."""
    names = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
    found = {}
    for name, tensor in in_memory(model).items():
        for new, old in names:
            name = name.replace(new, old)
        found[name] = tensor
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
