"""Slices: what a model reads before its layers is the first slice's, what it reads behind them the last one's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

_SMALL = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 16,
}  # fmt: skip
_BART = {
    "vocab_size": 30, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 16,
}  # fmt: skip
_SPEECH = {
    **_SMALL, "conv_dim": [8, 8], "conv_kernel": [3, 3], "conv_stride": [2, 2], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
# Module of the slices, class and its config's, settings, names that come from the first slice and from the last.
MODELS: dict[str, tuple[str | None, str, str, dict[str, Any], set[str], set[str]]] = {
    "bert": (None, "BertForMaskedLM", "BertConfig", _SMALL,
        {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"},
        {"cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.dense.weight"}),
    "bart": ("decoder", "BartForConditionalGeneration", "BartConfig", _BART,
        {"model.decoder.layernorm_embedding.weight", "model.decoder.embed_positions.weight"}, set()),
    "mbart": ("decoder", "MBartForConditionalGeneration", "MBartConfig", _BART,
        {"model.decoder.layernorm_embedding.weight"}, {"model.decoder.layer_norm.weight"}),
    "deberta": (None, "DebertaV2ForMaskedLM", "DebertaV2Config",
        {**_SMALL, "relative_attention": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4},
        {"deberta.encoder.LayerNorm.weight", "deberta.encoder.rel_embeddings.weight"}, set()),
    "opt": (None, "OPTForCausalLM", "OPTConfig", {**_SMALL, "ffn_dim": 24, "word_embed_proj_dim": 8},
        {"model.decoder.project_in.weight", "model.decoder.embed_positions.weight"},
        {"model.decoder.final_layer_norm.weight", "model.decoder.project_out.weight"}),
    "bloom": (None, "BloomForCausalLM", "BloomConfig", {"vocab_size": 30, "hidden_size": 16, "n_layer": 2, "n_head": 2},
        {"transformer.word_embeddings_layernorm.weight"}, {"transformer.ln_f.weight"}),
    "clip": (None, "CLIPVisionModel", "CLIPVisionConfig", {**_SMALL, "image_size": 8, "patch_size": 4},
        {"pre_layrnorm.weight", "embeddings.class_embedding"}, {"post_layernorm.weight"}),
    "speech": (None, "Wav2Vec2Model", "Wav2Vec2Config", _SPEECH,
        {"encoder.layer_norm.weight", "feature_projection.layer_norm.weight"}, set()),
    "stable speech": (None, "Wav2Vec2Model", "Wav2Vec2Config", {**_SPEECH, "do_stable_layer_norm": True},
        {"feature_projection.layer_norm.weight"}, {"encoder.layer_norm.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_each_tensor_is_of_the_slice_it_stands_beside(name: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    import transformers

    module, kind, config, settings, before, behind = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    for number, one in enumerate(("t0", "t1")):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        model.save_pretrained(tmp_path / one)
    slices = [{"sources": [{"model": f"t{i}", "layer_range": [i, i + 1]}]} for i in (0, 1)]
    recipe = {"genepool": 1, "method": "passthrough", "base": "t0"}
    recipe |= {"slices": slices} if module is None else {"modules": {module: {"slices": slices}}}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("merge", tmp_path / "mix.yaml", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    made = {key: value.float().mean() for key, value in load_file(tmp_path / "out" / "model.safetensors").items()}
    for end, names in enumerate((before, behind)):
        found = {key: float(made[key]) for key in made for one in names if key.endswith(one)}
        assert len(found) == len(names)
        assert found == dict.fromkeys(found, float(end))
