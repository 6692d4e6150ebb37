"""Tiny models of transformers' own classes that have several stacks of layers, saved as it saves them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TEXT = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
SEQUENCE = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
ENCODER = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}
QWEN_TOKENS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def _qwen2_vl(tf: Any) -> Any:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    text = {**TEXT, "rope_parameters": ROPE}
    config = tf.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **QWEN_TOKENS)
    return tf.Qwen2VLForConditionalGeneration, config


def _qwen3_vl(tf: Any) -> Any:
    vision = {
        "depth": 4, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1, 2],
    }  # fmt: skip
    text = {**TEXT, "head_dim": 8, "rope_parameters": ROPE}
    config = tf.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **QWEN_TOKENS)
    return tf.Qwen3VLForConditionalGeneration, config


def _llava(tf: Any) -> Any:
    vision = tf.CLIPVisionConfig(**TOWER, projection_dim=16)
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**TEXT), vision_config=vision, image_token_index=90, tie_word_embeddings=False
    )
    return tf.LlavaForConditionalGeneration, config


def _paligemma(tf: Any) -> Any:
    text = tf.GemmaConfig(**{**TEXT, "head_dim": 8, "tie_word_embeddings": True})
    vision = tf.SiglipVisionConfig(**TOWER)
    config = tf.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=90, projection_dim=32)
    return tf.PaliGemmaForConditionalGeneration, config


def _gemma3(tf: Any) -> Any:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = {**TEXT, "head_dim": 8, "tie_word_embeddings": True, "layer_types": kinds}
    config = tf.Gemma3Config(text_config=text, vision_config=tf.SiglipVisionConfig(**TOWER), mm_tokens_per_image=4)
    return tf.Gemma3ForConditionalGeneration, config


def _idefics3(tf: Any) -> Any:
    config = tf.Idefics3Config(text_config=tf.LlamaConfig(**TEXT), vision_config=TOWER, image_token_id=90)
    return tf.Idefics3ForConditionalGeneration, config


def _idefics2(tf: Any) -> Any:
    perceiver = {
        "hidden_size": 32, "resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 8,
        "resampler_n_latents": 4, "num_key_value_heads": 1,
    }  # fmt: skip
    config = tf.Idefics2Config(
        text_config=tf.MistralConfig(**TEXT), vision_config=TOWER, perceiver_config=perceiver, image_token_id=90
    )
    return tf.Idefics2ForConditionalGeneration, config


def _mllama(tf: Any) -> Any:
    text = {
        **TEXT,
        "num_hidden_layers": 4,
        "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default"},
    }
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_global_layers": 2,
        "attention_heads": 2, "image_size": 8, "patch_size": 4, "vision_output_dim": 32,
        "intermediate_layers_indices": [0],
        "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    return tf.MllamaForConditionalGeneration, tf.MllamaConfig(text_config=text, vision_config=vision)


def _idefics(tf: Any) -> Any:
    perceiver = {"resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 8, "resampler_n_latents": 4}
    vision = {**TOWER, "embed_dim": 16}
    config = tf.IdeficsConfig(
        **{**TEXT, "num_hidden_layers": 4}, cross_layer_interval=2, use_resampler=True,
        vision_config={key: value for key, value in vision.items() if key != "hidden_size"}, perceiver_config=perceiver,
    )  # fmt: skip
    return tf.IdeficsForVisionText2Text, config


def _blip2(tf: Any) -> Any:
    qformer = {**ENCODER, "hidden_size": 16, "num_attention_heads": 2, "encoder_hidden_size": 16}
    text = tf.OPTConfig(
        vocab_size=100, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=64,
    )  # fmt: skip
    config = tf.Blip2Config(vision_config=TOWER, qformer_config=qformer, text_config=text, num_query_tokens=4)
    return tf.Blip2ForConditionalGeneration, config


def _t5(tf: Any) -> Any:
    config = tf.T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_decoder_layers=4, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    return tf.T5ForConditionalGeneration, config


def _bart(tf: Any) -> Any:
    return tf.BartForConditionalGeneration, tf.BartConfig(**SEQUENCE, max_position_embeddings=64)


def _m2m(tf: Any) -> Any:
    return tf.M2M100ForConditionalGeneration, tf.M2M100Config(**SEQUENCE)


def _whisper(tf: Any) -> Any:
    sizes = {**SEQUENCE, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 32}
    return tf.WhisperForConditionalGeneration, tf.WhisperConfig(**sizes)


def _speech_to_text(tf: Any) -> Any:
    config = tf.Speech2TextConfig(**SEQUENCE, input_feat_per_channel=8, conv_channels=16)
    return tf.Speech2TextForConditionalGeneration, config


def _speech_encoder_decoder(tf: Any) -> Any:
    heard = tf.Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        conv_dim=[16, 16, 16], conv_kernel=[3, 3, 3], conv_stride=[2, 2, 2], num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    written = tf.BertConfig(**ENCODER, is_decoder=True, add_cross_attention=True)
    config = tf.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(heard, written)
    return tf.SpeechEncoderDecoderModel, config


def _vision_encoder_decoder(tf: Any) -> Any:
    seen = tf.ViTConfig(**{**TOWER, "hidden_size": 32, "num_attention_heads": 4})
    written = tf.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=3, n_head=4, n_positions=64, add_cross_attention=True, is_decoder=True
    )
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(seen, written)
    return tf.VisionEncoderDecoderModel, config


def _clip(tf: Any) -> Any:
    text = {key: value for key, value in TEXT.items() if key not in ("num_key_value_heads", "tie_word_embeddings")}
    vision = {**TOWER, "projection_dim": 16}
    return tf.CLIPModel, tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def _siglip(tf: Any) -> Any:
    text = {key: value for key, value in TEXT.items() if key not in ("num_key_value_heads", "tie_word_embeddings")}
    return tf.SiglipModel, tf.SiglipConfig(text_config=text, vision_config=TOWER)


def _qwen2_audio(tf: Any) -> Any:
    audio = {
        "num_mel_bins": 8, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "d_model": 16,
        "max_source_positions": 10,
    }  # fmt: skip
    config = tf.Qwen2AudioConfig(audio_config=audio, text_config=tf.Qwen2Config(**TEXT), audio_token_index=90)
    return tf.Qwen2AudioForConditionalGeneration, config


#: Name -> (class, config) of a model, given transformers.
ARCHITECTURES: Mapping[str, Callable[[Any], Any]] = {
    "qwen2_vl": _qwen2_vl, "qwen3_vl": _qwen3_vl, "llava": _llava, "paligemma": _paligemma, "gemma3": _gemma3,
    "idefics": _idefics, "idefics2": _idefics2, "idefics3": _idefics3, "mllama": _mllama, "blip2": _blip2, "t5": _t5,
    "bart": _bart, "m2m": _m2m, "whisper": _whisper, "speech_to_text": _speech_to_text,
    "speech_encoder_decoder": _speech_encoder_decoder, "vision_encoder_decoder": _vision_encoder_decoder,
    "clip": _clip, "siglip": _siglip, "qwen2_audio": _qwen2_audio,
}  # fmt: skip


class Kin:
    """A base and two models near it, of one class, on the disk: `base`, `a` and `b` in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        import transformers as tf

        self.folder = folder
        self.kind, config = ARCHITECTURES[name](tf)
        torch.manual_seed(0)
        base = self.kind(config)
        for seed, one in enumerate(("base", "a", "b")):
            save_near(base, folder / one, seed)

    def stored(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one of them, by the names in its file."""
        return load_file(self.folder / name / "model.safetensors")

    def loaded(self, name: str) -> tuple[dict[str, torch.Tensor], set[str]]:
        """What transformers makes of a model folder: its tensors, and what it found missing or had no use for."""
        model, told = self.kind.from_pretrained(self.folder / name, output_loading_info=True)
        odd = {*told["missing_keys"], *told["unexpected_keys"], *(one[0] for one in told["mismatched_keys"])}
        return model.state_dict(), odd


def save_near(model: Any, path: Path, seed: int) -> Any:
    """Saves a copy of a model with every parameter moved a little; returns it."""
    near = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    near.save_pretrained(path)
    return near
