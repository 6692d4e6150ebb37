"""A model's config.json and llama.cpp's hyperparameters, made of each other.

Keys follow llama.cpp's conversion/base.py (`TextModel.set_gguf_parameters`) and conversion/llama.py. What one side has
no word for is refused by name; nothing is dropped that would change what the model writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genepool.errors import InputError
from genepool.weights.gguf.architectures import GgufArchitecture
from genepool.weights.gguf.header import GgufHeader

# The scaling of Llama 3.1 as its authors published it; a file says nothing of it but the factors it leads to.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LEFT_TO_LLAMA_CPP = "Keep the model in Hugging Face's layout"


def config_of(
    header: GgufHeader, architecture: GgufArchitecture, names: Sequence[str], factors: Sequence[float]
) -> dict[str, Any]:
    """config.json of the model in a file.

    Args:
        header: the file's.
        architecture: its architecture.
        names: llama.cpp's names of its tensors.
        factors: what the frequencies are divided by, `(head_dim / 2,)`; empty when the file has no such tensor.

    Raises:
        InputError: a value is missing or makes no sense, or transformers has no word for it.
    """
    prefix = architecture.name
    heads = header.natural(f"{prefix}.attention.head_count", most=1 << 16)
    hidden = header.natural(f"{prefix}.embedding_length", most=1 << 24)
    if header.values.get(f"{prefix}.expert_count"):
        raise InputError(
            "is a mixture of experts, which is not read from GGUF",
            where=header.where(f"{prefix}.expert_count"),
            fix="Use the original",
        )
    head_dim = header.natural(f"{prefix}.attention.key_length", max(1, hidden // heads), most=1 << 16)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := header.natural(f"{prefix}.{key}", head_dim)) != head_dim:
            raise InputError(
                f"got {other}, expected {head_dim}, the length of keys",
                where=header.where(f"{prefix}.{key}"),
                fix="Use the model in Hugging Face's layout",
            )
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise InputError("the tensor is missing", where=header.where("token_embd.weight"), fix="Fetch the file again")
    config: dict[str, Any] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": header.natural(f"{prefix}.feed_forward_length", most=1 << 26),
        "num_hidden_layers": header.natural(f"{prefix}.block_count", most=1 << 16),
        "num_attention_heads": heads,
        "num_key_value_heads": header.natural(f"{prefix}.attention.head_count_kv", heads, most=1 << 16),
        "head_dim": head_dim,
        "max_position_embeddings": header.natural(f"{prefix}.context_length", 4096),
        "rms_norm_eps": header.real(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in names,
        "rope_parameters": _rope_of(header, prefix, head_dim, factors),
    }
    if architecture.permutes:
        config["attention_bias"] = any(name.endswith(".attn_q.bias") for name in names)
        config["mlp_bias"] = any(name.endswith(".ffn_gate.bias") for name in names)
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (token := token_id(header, key, config["vocab_size"])) is not None:
            config[f"{role}_token_id"] = token
    return config


def token_id(header: GgufHeader, key: str, count: int) -> int | None:
    """The number of a special token; None when the file names none.

    Raises:
        InputError: it is no number of a token.
    """
    name = f"tokenizer.ggml.{key}_token_id"
    value = header.values.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < count):
        raise InputError(f"got {value!r}, expected a number below {count}", where=header.where(name))
    return value if isinstance(value, int) else None


def _rope_of(header: GgufHeader, prefix: str, head_dim: int, factors: Sequence[float]) -> dict[str, Any]:
    theta = header.real(f"{prefix}.rope.freq_base", 10000.0)
    kind = header.text(f"{prefix}.rope.scaling.type", "none")
    if factors:
        return {"rope_theta": theta, **_llama3_of(header, head_dim, theta, factors)}
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = header.real(f"{prefix}.rope.scaling.factor", 1.0)
    if kind == "linear":
        return {"rope_type": "linear" if factor != 1 else "default", "rope_theta": theta} | (
            {"factor": factor} if factor != 1 else {}
        )
    if kind != "yarn":
        raise InputError(
            f"got the rope scaling {kind!r}, expected none, linear or yarn",
            where=header.where(f"{prefix}.rope.scaling.type"),
            fix="Use the model in Hugging Face's layout",
        )
    original = header.natural(f"{prefix}.rope.scaling.original_context_length")
    found = {"rope_type": "yarn", "rope_theta": theta, "factor": factor, "original_max_position_embeddings": original}
    for key, stored in _YARN.items():
        if f"{prefix}.rope.scaling.{stored}" in header.values:
            found[key] = header.real(f"{prefix}.rope.scaling.{stored}")
    return found


_YARN = {"attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


def _llama3_of(header: GgufHeader, head_dim: int, theta: float, factors: Sequence[float]) -> dict[str, Any]:
    found = {"rope_type": "llama3", "factor": max(factors), **_LLAMA3}
    expected = llama3_factors(found, theta, head_dim) if all(0 < one < 1e6 for one in factors) else []
    if len(factors) != len(expected) or any(
        not math.isclose(a, b, rel_tol=1e-4) for a, b in zip(factors, expected, strict=True)
    ):
        raise InputError(
            "the factors are not those of Llama 3.1's scaling",
            where=header.where("rope_freqs.weight"),
            fix="Use the model in Hugging Face's layout",
        )
    return found


def llama3_factors(rope: Mapping[str, Any], theta: float, head_dim: int) -> list[float]:
    """What llama.cpp divides each frequency by, `(head_dim / 2,)`; see `generate_extra_tensors` of its converter."""
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    found = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found


class GgufSettings:
    """What config.json says, checked against what llama.cpp can do.

    Args:
        config: the parsed config.json.
        architecture: what the model is written as.
        where: the model, for errors.

    Attributes:
        values: llama.cpp's keys, without the architecture's prefix, in its converter's order.
        factors: what the frequencies are divided by; empty when they are not.

    Raises:
        InputError: llama.cpp has no form for something it says.
    """

    def __init__(self, config: Mapping[str, Any], architecture: GgufArchitecture, where: str) -> None:
        self.config, self.where = config, where
        self.factors: list[float] = []
        self._refuse("hidden_act", "silu")
        self._refuse_windows()
        heads, hidden = self._natural("num_attention_heads"), self._natural("hidden_size")
        head_dim = self._natural("head_dim", max(1, hidden // heads))
        self.values: dict[str, int | float | str] = {
            "block_count": self._natural("num_hidden_layers"),
            "context_length": self._natural("max_position_embeddings"),
            "embedding_length": hidden,
            "feed_forward_length": self._natural("intermediate_size"),
            "attention.head_count": heads,
            "attention.head_count_kv": self._natural("num_key_value_heads", heads),
        }
        self._add_rope(head_dim)
        self.values["attention.layer_norm_rms_epsilon"] = self._real(config, "rms_norm_eps", 1e-6)
        self.values["attention.key_length"] = self.values["attention.value_length"] = head_dim
        if architecture.permutes:
            self.values["rope.dimension_count"] = head_dim
            self.values["vocab_size"] = self._natural("vocab_size")
        self.heads = {"num_attention_heads": heads, "num_key_value_heads": self.values["attention.head_count_kv"]}

    def _natural(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise InputError(f"got {value!r}, expected a number of at least 1", where=f"{self.where}:{key}")
        return value

    def _real(self, settings: Mapping[str, Any], key: str, default: float | None = None) -> float:
        value = settings.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise InputError(f"got {value!r}, expected a positive number", where=f"{self.where}:{key}")
        return float(value)

    def _refuse(self, key: str, expected: str) -> None:
        if (value := self.config.get(key, expected)) != expected:
            raise InputError(
                f"llama.cpp has no {key} {value!r} here, expected {expected!r}",
                where=f"{self.where}:{key}",
                fix=_LEFT_TO_LLAMA_CPP,
            )

    def _refuse_windows(self) -> None:
        """llama.cpp lets every token of these architectures see all before it."""
        used = self.config.get("use_sliding_window", self.config.get("model_type") == "mistral")
        window = None if self.config.get("sliding_window") is None else self._natural("sliding_window")
        if used and window is not None and window < self._natural("max_position_embeddings"):
            raise InputError(
                f"llama.cpp has no attention within {window} tokens for this architecture",
                where=f"{self.where}:sliding_window",
                fix=_LEFT_TO_LLAMA_CPP,
            )

    def _add_rope(self, head_dim: int) -> None:
        rope = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            key = "rope_parameters" if self.config.get("rope_parameters") else "rope_scaling"
            raise InputError(f"got {rope!r:.60}, expected a mapping", where=f"{self.where}:{key}")
        theta = self._real(rope, "rope_theta", self.config.get("rope_theta") or 10000.0)
        kind = rope.get("rope_type", rope.get("type")) or "default"
        if kind == "llama3":
            known = {key: self._real(rope, key, default) for key, default in {"factor": 8.0, **_LLAMA3}.items()}
            self.factors = llama3_factors(known, theta, head_dim)
        elif kind in ("linear", "yarn"):
            self.values["rope.scaling.type"] = kind
            self.values["rope.scaling.factor"] = self._real(rope, "factor")
            if kind == "yarn":
                self._add_yarn(rope)
        elif kind != "default":
            raise InputError(
                f"llama.cpp has no rope scaling {kind!r} here, expected default, linear, yarn or llama3",
                where=f"{self.where}:rope_parameters",
                fix=_LEFT_TO_LLAMA_CPP,
            )
        if self._real(rope, "partial_rotary_factor", self.config.get("partial_rotary_factor") or 1) != 1:
            raise InputError(
                "llama.cpp rotates whole heads of this architecture",
                where=f"{self.where}:partial_rotary_factor",
                fix=_LEFT_TO_LLAMA_CPP,
            )
        self.values["rope.freq_base"] = theta

    def _add_yarn(self, rope: Mapping[str, Any]) -> None:
        context = self._natural("max_position_embeddings")
        key = "original_max_position_embeddings"
        known = self._real(rope, key, context) if rope.get(key) else context
        self.values["rope.scaling.original_context_length"] = int(known)
        for key, stored in _YARN.items():
            if rope.get(key) is not None:
                self.values[f"rope.scaling.{stored}"] = self._real(rope, key)
