"""Small models of any architecture: transformers' default config with fewer layers and narrower ones.

All widths are divided by one number, so that relations between them hold (a width is heads times the size of a head);
numbers of layers, experts and tokens are set. What cannot be built so is tried with larger divisors left out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

# Entries of a model that is still small, and of one that is taken where none of its kind can be made smaller.
MOST = 40_000_000
LARGEST = 200_000_000
VOCABULARY = 128
# The most entries, what widths are divided by, whether layers are left out.
_ATTEMPTS = tuple(
    (most, divisor, fewer)
    for most in (MOST, LARGEST)
    for fewer, divisors in ((True, (16, 8, 4, 32, 1)), (False, (16, 4, 1)))
    for divisor in divisors
)
_LAYERS = re.compile(
    r"(?!num_feat_extract_layers)(.*_)?(num|n)_(\w+_)?(layers?|blocks|hidden_layers)|(n_)?layers?|\w+_layers"
    r"|num_hidden_groups|(encoder_|decoder_)depth|depth"
)
# Lists with an entry for each layer, and names of layers: made anew by the config of fewer layers.
_BY_LAYER = re.compile(
    r"layer_types|layers_block_type|\w*_layer_types|block_types|full_attn_idxs|\w*_layer_idx\w*|hybrid_layer_ids|attn_layer_\w+"
    r"|_?out_features|_?out_indices|stage_names|kv_source_layers|no_rope_layers|moe_layers|per_layer_config|\w*layers_idx\w*|\w*layer_ids"
)
_SETS: tuple[tuple[re.Pattern[str], int], ...] = (
    (_LAYERS, 2),
    (re.compile(r".*vocab_size\w*|num_codebook_entries|codebook_size"), VOCABULARY),
    (re.compile(r"(num|n)(_\w+)?_experts|moe_num_experts|num_local_experts"), 4),
    (re.compile(r"num_experts_per_tok(en)?|moe_top_?k|num_selected_experts|top_k_experts|moe_k"), 2),
    (re.compile(r"max_position_embeddings|n_positions|max_source_positions|max_target_positions|n_ctx"), 128),
    (re.compile(r"num_self_attends_per_block|num_queries|num_query_tokens|num_latents|num_channels_latent"), 4),
)  # fmt: skip
_WIDTH = re.compile(
    r".*(upsample_groups|d_latents|hidden_size|hidden_dim|d_model|d_ff|d_kv|n_embd|n_inner|_dim|^dim|width|intermediate_size|ffn_dim|embed_dim"
    r"|embedding_size|ffn_size|projection_size|head_dim|proj_dim|hidden_sizes|channels|lora_rank|hidden_channels"
    r"|inner_dim|feature_size|encoder_hidden_size|feat_dim|num_feature_dims|latent_dim|model_dim)"
)
_KEPT = re.compile(
    r"num_channels|audio_channels|in_channels|in_chans|num_mel_bins|input_channels|input_dim|patch_size|image_size|rope(?!_head_dim)|_type"
)
# Settings whose default contradicts the others, has no value, or depends on a layer that is left out: path -> value, by
# kind or by class.
_OWN: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 4},
    "aya_vision": {"vision_config.num_attention_heads": 8},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": "auto"},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "cohere_compass": {"text_config.layer_types": ["sliding_attention", "full_attention"]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "esm": {"vocab_size": 33},
    "glm5_next": {"text_config.qk_rope_head_dim": 0},
    "glm5_next_text": {"qk_rope_head_dim": 0},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": "auto"},
    "informer": {"prediction_length": 4},
    "janus": {"vq_config.base_channels": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lw_detr": {"projector_scale_factors": [1.0], "num_feature_levels": 1},
    "nemotron": {"num_key_value_heads": 4, "head_dim": 8},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "T5GemmaEncoderModel": {"is_encoder_decoder": False},
    "time_series_transformer": {"prediction_length": 4},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
}  # fmt: skip
_TOKEN = re.compile(
    r"(.*_)?(token|tok)(_id|_index|_ids)|(.*_)?(bos|eos|pad|sep|cls|mask|image|audio|video)_(token_)?(id|index|token_id)"
)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """transformers says much about odd configs."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tiny_model(name: str, kind: str) -> Any:
    """A random model of a class, in evaluation mode, every parameter a little beside what it is initialised with.

    Args:
        name: of the class.
        kind: the model_type of its config.

    Raises:
        ValueError: no small one could be built, with the reason of the last attempt.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    cls = getattr(transformers, name)
    # A class that several kinds of config share (the text part of a larger model) says which is its own.
    configured = getattr(cls, "config_class", None) or CONFIG_MAPPING[kind]
    settings = configured().to_dict()
    last = ""
    for most, divisor, fewer in _ATTEMPTS:
        try:
            with silent():
                config = configured.from_dict(_with_own(_reduced(settings, divisor, fewer), kind, name))
                with torch.device("meta"):
                    size = sum(parameter.numel() for parameter in cls(config).parameters())
                if size > most:
                    last = last or f"{size:,} entries at the smallest"
                    continue
                torch.manual_seed(0)
                model = cls(config).eval()
            if empty := [
                key for key, value in model.state_dict().items() if value.is_floating_point() and not value.numel()
            ]:
                last = f"{empty[0]} has no entries"
                continue
        except Exception as error:
            last = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.02 * torch.randn_like(parameter))
        return model
    raise ValueError(last)


def _with_own(settings: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    for path, value in {**_OWN.get(kind, {}), **_OWN.get(name, {})}.items():
        *outer, key = path.split(".")
        place = settings
        for name in outer:
            place = place[name]
        place[key] = value
    return settings


def _with_head_dim(settings: dict[str, Any]) -> dict[str, Any]:
    """Some classes take None for the size of a head, and some of those cannot compute with it."""
    width, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    if settings.get("head_dim", 0) is None and isinstance(width, int) and isinstance(heads, int) and heads:
        return {**settings, "head_dim": width // heads}
    return settings


def _narrowed(sections: Sequence[int], divisor: int) -> list[int]:
    """The shares of rotary frequencies of a head that many times smaller; none is empty where that can be."""
    shares = [max(1, section // divisor) for section in sections]
    left = sum(sections) // divisor - sum(shares[:-1])
    return [*shares[:-1], left] if left > 0 else list(sections)


def _reduced(value: Any, divisor: int, fewer: bool, key: str = "") -> Any:
    if isinstance(value, dict):
        value = _with_head_dim(value)
        kept = {inner: one for inner, one in value.items() if not (fewer and _BY_LAYER.fullmatch(str(inner)))}
        return {inner: _reduced(one, divisor, fewer, str(inner)) for inner, one in kept.items() if inner != "dtype"}
    if key == "mrope_section" and isinstance(value, list | tuple):
        return _narrowed(value, divisor)
    if isinstance(value, list | tuple):
        return [_reduced(one, divisor, fewer, key) for one in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _TOKEN.fullmatch(key):
        return value if 0 <= value < VOCABULARY else value % (VOCABULARY - 8) + 4
    for pattern, number in _SETS:
        if pattern.fullmatch(key) and (fewer or pattern is not _LAYERS):
            return min(value, number)
    if _WIDTH.fullmatch(key) and not _KEPT.search(key) and value % divisor == 0:
        return max(2, value // divisor)
    return value
