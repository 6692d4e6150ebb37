"""Adapters of every kind that PEFT can merge, with the settings that change their arithmetic, on tiny random models."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One adapter.

    Attributes:
        kind: PEFT's name of its kind.
        settings: of its configuration, beside target_modules.
        base: the model it is on, of `BASES`.
        targets: the modules it is for; those of the base when None.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    base: str = "llama"
    targets: Any = None

    @property
    def name(self) -> str:
        """For tables and tests."""
        said = [f"{key}={value}" for key, value in self.settings.items()]
        said += [f"of {self.targets}"] if self.targets else []
        return f"{self.kind} on {self.base}" + (f": {', '.join(said)}" if said else "")


CASES: tuple[Case, ...] = (
    Case("LORA"),
    Case("LORA", {"r": 3, "lora_alpha": 7, "use_rslora": True}),
    Case("LORA", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 9}}),
    Case("LORA", {"use_dora": True}),
    Case("LORA", {"use_dora": True}, targets=["q_proj", "embed_tokens"]),
    Case("LORA", {"lora_bias": True}, targets=["q_proj"]),
    Case("LORA", {"bias": "all"}),
    Case("LORA", {"bias": "lora_only", "lora_bias": True}, targets=["q_proj"]),
    Case("LORA", {"modules_to_save": ["norm"]}, targets=["q_proj", "embed_tokens"]),
    Case("LORA", {"trainable_token_indices": [3, 9]}),
    Case("LORA", {"trainable_token_indices": {"embed_tokens": [3, 9], "lm_head": [5]}}),
    Case("LORA", {"init_lora_weights": "pissa"}),
    Case("LORA", {"init_lora_weights": "pissa", "use_dora": True}),
    Case("LORA", {"init_lora_weights": "olora", "lora_alpha": 3}),
    Case("LORA", {"init_lora_weights": "gaussian"}),
    Case("LORA", {"init_lora_weights": "orthogonal"}),
    Case("LORA", {"init_lora_weights": "mica"}),
    Case("LORA", {"kasa_config": "KasaConfig"}),
    Case("LORA", {"velora_config": "VeloraConfig"}),
    Case("LORA", {"monteclora_config": "MontecloraConfig"}),
    Case("LORA", {"use_bdlora": "BdLoraConfig"}),
    Case("LORA", {"layers_to_transform": [1], "exclude_modules": ["down_proj"]}),
    Case("LORA", base="gpt2"),
    Case("LORA", {"use_dora": True}, base="gpt2"),
    Case("LORA", {"init_lora_weights": "pissa"}, base="gpt2"),
    Case("LORA", {"bias": "all"}, base="gpt2", targets=["c_attn", "lm_head"]),
    Case("LORA", base="vit"),
    Case("LORA", {"use_dora": True, "use_rslora": True}, base="vit"),
    Case("BOFT", {"boft_block_size": 4}, base="vit"),
    Case("HIRA", {"r": 4}, base="vit"),
    Case("HRA", {"r": 4}, base="vit"),
    Case("IA3", {"feedforward_modules": ["projection"]}, base="vit"),
    Case("IA3", {"feedforward_modules": []}, base="vit"),
    Case("LOHA", {"r": 3}, base="vit"),
    Case("LOHA", {"r": 3, "use_effective_conv2d": True}, base="vit"),
    Case("LOKR", {"r": 2}, base="vit"),
    Case("LOKR", {"r": 2, "use_effective_conv2d": True, "decompose_both": True}, base="vit"),
    Case("OFT", {"oft_block_size": 4}, base="vit"),
    Case("LORA", base="whisper"),
    Case("LORA", {"use_dora": True}, base="whisper"),
    Case("LOHA", {"r": 3}, base="whisper"),
    Case("LOHA", {"r": 3, "use_effective_conv2d": True}, base="whisper"),
    Case("LOKR", {"r": 2}, base="whisper"),
    Case("LOKR", {"r": 2, "use_effective_conv2d": True}, base="whisper"),
    Case("HIRA", {"r": 4}, base="whisper"),
    Case("LORA", base="videomae"),
    Case("LORA", {"use_dora": True}, base="videomae"),
    Case("HIRA", {"r": 4}, base="videomae"),
    Case("IA3", {"feedforward_modules": []}, base="videomae"),
    Case("LORA", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}, base="mixtral"),
    Case("LORA", {"target_parameters": ["experts.down_proj"], "use_rslora": True, "r": 3}, base="mixtral"),
    Case("LORA", {"target_parameters": ["experts.gate_up_proj", "gate.weight"]}, base="mixtral"),
    Case("LORA", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}, base="gpt_oss"),
    Case("LORA", {"target_parameters": ["experts.gate_up_proj"]}, base="qwen3_moe"),
    Case("ADALORA", {"total_step": 10, "init_r": 6, "lora_alpha": 5}),
    Case("BEFT", targets=["q_proj"]),
    Case("BOFT", {"boft_block_size": 8}),
    Case("BOFT", {"boft_block_size": 0, "boft_block_num": 4, "bias": "boft_only"}, targets=["q_proj"]),
    Case("C3A", {"block_size": 16}),
    Case("C3A", {"block_size": 16, "block_size_pattern": {"q_proj": 8}}),
    Case("DEFT", {"r": 4}),
    Case("DEFT", {"r": 4, "decomposition_method": "qr", "alpha": 9}),
    Case("DEFT", {"r": 4, "para": True}),
    Case("DELORA", {"r": 4}),
    Case("FOURIERFT", {"n_frequency": 50}),
    Case("FOURIERFT", {"n_frequency": 40, "n_frequency_pattern": {"q_proj": 30}, "random_loc_seed": 5, "scaling": 3.0}),
    Case("FOURIERFT", {"n_frequency": 50}, base="gpt2"),
    Case("FROD"),
    Case("FROD", base="gpt2", targets=["c_attn"]),
    Case("GLORA", {"r": 3}),
    Case("GLORA", {"config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"}),
    Case("GLORA", {"config_A_B": "constant", "config_C": "none", "config_D_E": "none"}),
    Case("GRALORA", {"r": 4}),
    Case("GRALORA", {"r": 8, "hybrid_r": 2, "gralora_k": 4, "alpha": 5}),
    Case("HIRA", {"r": 4}),
    Case("HIRA", {"r": 4}, targets=["q_proj", "embed_tokens"]),
    Case("HIRA", {"r": 4}, base="gpt2"),
    Case("HRA", {"r": 4}),
    Case("HRA", {"r": 4, "apply_GS": True}),
    Case("IA3", {"feedforward_modules": ["down_proj"]}),
    Case("IA3", {"feedforward_modules": ["mlp.c_proj"]}, base="gpt2", targets=["c_attn", "mlp.c_proj"]),
    Case("LN_TUNING", targets=["input_layernorm", "norm"]),
    Case("LN_TUNING", base="gpt2", targets=["ln_1"]),
    Case("LOHA", {"r": 3, "alpha": 5}),
    Case("LOHA", {"r": 3, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 4}}),
    Case("LOKR", {"r": 2}),
    Case("LOKR", {"r": 2, "decompose_both": True, "decompose_factor": 2, "alpha": 3}),
    Case("LOKR", {"r": 64, "rank_pattern": {"q_proj": 32}}),
    Case("MISS", {"r": 8}),
    Case("MISS", {"r": 7}),
    Case("MISS", {"r": 8, "init_weights": "bat"}),
    Case("MISS", {"r": 8, "mini_r": 4, "init_weights": "mini"}),
    Case("OFT", {"oft_block_size": 8}),
    Case("OFT", {"oft_block_size": 0, "r": 4, "use_cayley_neumann": False}),
    Case("OFT", {"oft_block_size": 8, "block_share": True, "num_cayley_neumann_terms": 3}),
    Case("OFT", {"oft_block_size": 8, "num_cayley_neumann_terms": 2}),
    Case("OFT", {"oft_block_size": 8, "coft": True, "eps": 0.01}),
    Case("OFT", {"oft_block_size": 8}, targets=["embed_tokens"]),
    Case("OSF", {"effective_rank": 8}),
    Case("PEANUT", {"r": 4}),
    Case("PEANUT", {"r": 4, "depth": 2, "act_fn": "gelu", "scaling": 0.5}),
    Case("PSOFT", {"r": 4}),
    Case("PSOFT", {"r": 4, "ab_svd_init": "pissa_init", "psoft_alpha": 6, "use_cayley_neumann": True}),
    Case("PSOFT", {"r": 4, "use_cayley_neumann": True, "cayley_neumann_eps": 0.1}),
    Case("PSOFT", {"r": 4, "psoft_orth": False, "psoft_mag_a": False}),
    Case("PSOFT", {"r": 4, "psoft_svd": "lowrank", "random_seed": 3}),
    Case("PVERA", {"r": 8}),
    Case("RANDLORA", {"r": 4}),
    Case("RANDLORA", {"r": 5, "save_projection": False, "randlora_alpha": 7}),
    Case("RANDLORA", {"r": 4, "save_projection": False, "sparse": True}),
    Case("RANDLORA", {"r": 4, "save_projection": False, "very_sparse": True}),
    Case("RANDLORA", {"r": 4}, base="gpt2"),
    Case("ROAD", {"group_size": 16}),
    Case("ROAD", {"group_size": 8, "variant": "road_2"}),
    Case("ROAD", {"group_size": 8, "variant": "road_4"}),
    Case("SHIRA", {"r": 2}),
    Case("SUPERTUNING", {"r": 2, "lora_alpha": 4}),
    Case("SUPERTUNING", {"sparsity": 0.9, "save_precomputed_indices": False}),
    Case("SUPERTUNING", {"sparsity": 0.9, "select_top": False, "save_precomputed_indices": False}),
    Case("TINYLORA"),
    Case("TINYLORA", {"weight_tying": 0.5, "save_projection": False, "r": 3, "u": 7}),
    Case("TINYLORA", targets=["q_proj", "embed_tokens"]),
    Case("TRAINABLE_TOKENS", {"token_indices": [3, 7]}, targets=["embed_tokens"]),
    Case("UNILORA", {"theta_d_length": 30}),
    Case("UNILORA", {"save_indices": True, "layers_to_transform": [0]}),
    Case("UNILORA", {"proj_seed": 5}, targets="all-linear"),
    Case("UNILORA", base="gpt2"),
    Case("VBLORA", {"vector_length": 16, "num_vectors": 10}),
    Case("VBLORA", {"vector_length": 16, "num_vectors": 10, "topk": 3, "save_only_topk_weights": True}),
    Case("VERA", {"r": 8}),
    Case("VERA", {"r": 8, "save_projection": False, "projection_prng_key": 7}),
    Case("VERA", {"r": 8, "bias": "all"}, base="gpt2"),
    Case("WAVEFT", {"n_frequency": 50}),
    Case("WAVEFT", {"n_frequency": 50, "wavelet_family": "db4", "random_loc_seed": 3}),
    Case("WAVEFT", {"n_frequency": 50, "use_idwt": False}),
)
_NESTED = {
    "KasaConfig": {},
    "VeloraConfig": {"num_groups": 8},
    "MontecloraConfig": {"num_samples": 2},
    "BdLoraConfig": {"nblocks": 2, "target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["down_proj"]},
}


def _bases() -> dict[str, tuple[Any, str, list[str]]]:
    """Models -> what makes one, the class that loads it and the modules that adapters are for."""
    import transformers as tf

    moe = {**_SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    gpt2 = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    whisper = {
        "vocab_size": 64, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
    }  # fmt: skip
    video = {**vision, "image_size": 8, "patch_size": 4, "num_frames": 4, "tubelet_size": 2}
    qwen = {**_SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    words = "AutoModelForCausalLM"
    return {
        # With biases.
        "llama": (
            lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_SIZES, attention_bias=True, tie_word_embeddings=False)),
            words,
            ["q_proj", "down_proj"],
        ),
        # With transposed layers.
        "gpt2": (
            lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**gpt2, tie_word_embeddings=False)),
            words,
            ["c_attn", "c_proj", "c_fc"],
        ),
        # With convolutions of two, one and three dimensions.
        "vit": (
            lambda: tf.ViTForImageClassification(tf.ViTConfig(**vision, image_size=16, patch_size=4)),
            "AutoModelForImageClassification",
            ["projection", "q_proj"],
        ),
        "whisper": (
            lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**whisper)),
            "AutoModelForSpeechSeq2Seq",
            ["conv1", "q_proj"],
        ),
        "videomae": (
            lambda: tf.VideoMAEForVideoClassification(tf.VideoMAEConfig(**video)),
            "AutoModelForVideoClassification",
            ["projection"],
        ),
        # With fused experts, stored one by one, transposed, and square.
        "mixtral": (lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**moe)), words, ["q_proj"]),
        "gpt_oss": (
            lambda: tf.GptOssForCausalLM(tf.GptOssConfig(**{**moe, "intermediate_size": 32}, head_dim=8)),
            words,
            ["q_proj"],
        ),
        "qwen3_moe": (lambda: tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**qwen)), words, ["q_proj"]),
    }


def build_base(name: str, folder: Path) -> Path:
    """A model of random weights."""
    torch.manual_seed(0)
    model = _bases()[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / name)
    return folder / name


def build_adapter(case: Case, base: Path, out: Path) -> dict[str, torch.Tensor]:
    """An adapter of random numbers, saved at `out`; what PEFT merges when it loads it again, by names in memory."""
    import transformers
    from peft import PeftModel, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    _, loader, targets = _bases()[case.base]
    loads = getattr(transformers, loader)
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        given = {key: _nested(value) for key, value in case.settings.items()}
        config = PEFT_TYPE_TO_CONFIG_MAPPING[case.kind](target_modules=case.targets or targets, **given)
        torch.manual_seed(1)
        live = get_peft_model(loads.from_pretrained(base), config)
        with torch.no_grad():
            for parameter in live.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        live.save_pretrained(out)
        again: Any = PeftModel.from_pretrained(loads.from_pretrained(base), str(out))
        return dict(again.merge_and_unload().state_dict())


def _nested(value: Any) -> Any:
    import peft.tuners.lora.config as settings

    return getattr(settings, value)(**_NESTED[value]) if isinstance(value, str) and value in _NESTED else value


BASES = ("llama", "gpt2", "vit", "whisper", "videomae", "mixtral", "gpt_oss", "qwen3_moe")
