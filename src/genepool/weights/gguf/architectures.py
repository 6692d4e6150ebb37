"""The architectures llama.cpp and we both know, told apart by `general.architecture`: names of tensors, both ways.

Llama-shaped and Qwen2- and Qwen3-shaped models. llama.cpp keeps the query and key rows of Llama-shaped ones in another
order (pairs that rotate together lie beside each other); `stored_rows` and `as_stored` say where a row goes. Names
follow llama.cpp's gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QWEN3_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_QKV = frozenset({"attn_q", "attn_k", "attn_v"})
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufArchitecture:
    """One architecture.

    Attributes:
        name: llama.cpp's.
        model_type, model_class: of config.json, transformers' words.
        inside: the modules of a layer -> llama.cpp's names of them.
        biases: llama.cpp's names of the modules that may have a bias.
        permutes: whether llama.cpp orders query and key rows by rotating pairs.
    """

    name: str
    model_type: str
    model_class: str
    inside: Mapping[str, str]
    biases: frozenset[str]
    permutes: bool = False

    def stored_name(self, name: str) -> str | None:
        """llama.cpp's name of a tensor; None where it has no place for it."""
        if match := _LAYER.fullmatch(name):
            layer, module, leaf = match.groups()
            inner = self.inside.get(module)
            return None if inner is None or not self._may_have(inner, leaf) else f"blk.{int(layer)}.{inner}.{leaf}"
        module, _, leaf = name.rpartition(".")
        return f"{_OUTSIDE[module]}.weight" if module in _OUTSIDE and leaf == "weight" else None

    def name_of(self, stored: str) -> str | None:
        """transformers' name of a tensor; None where the architecture has no such tensor."""
        if match := _BLOCK.fullmatch(stored):
            layer, inner, leaf = match.groups()
            module = next((module for module, known in self.inside.items() if known == inner), None)
            return (
                None if module is None or not self._may_have(inner, leaf) else f"model.layers.{layer}.{module}.{leaf}"
            )
        outside = next((module for module, known in _OUTSIDE.items() if f"{known}.weight" == stored), None)
        return None if outside is None else f"{outside}.weight"

    def _may_have(self, inner: str, leaf: str) -> bool:
        return leaf == "weight" or inner in self.biases

    def heads_of(self, stored: str, config: Mapping[str, Any]) -> int:
        """How many heads the rows of a tensor are ordered by pairs in; 0 for a tensor that is stored as it is."""
        match = _BLOCK.fullmatch(stored)
        if not self.permutes or match is None or match[2] not in ("attn_q", "attn_k"):
            return 0
        return int(config["num_attention_heads" if match[2] == "attn_q" else "num_key_value_heads"])


_FEED_FORWARD = frozenset({"ffn_gate", "ffn_up", "ffn_down"})
ARCHITECTURES = (
    GgufArchitecture(
        "llama", "llama", "LlamaForCausalLM", _INSIDE, _QKV | {"attn_output"} | _FEED_FORWARD, permutes=True
    ),
    GgufArchitecture("qwen2", "qwen2", "Qwen2ForCausalLM", _INSIDE, _QKV),
    GgufArchitecture("qwen3", "qwen3", "Qwen3ForCausalLM", {**_INSIDE, **_QWEN3_NORMS}, frozenset()),
)
# Models of other classes that llama.cpp's converter writes as one of these.
_SAME = {"MistralForCausalLM": "llama"}


def architecture_named(name: str, where: str) -> GgufArchitecture:
    """The architecture of a GGUF file.

    Raises:
        InputError: it is not known here.
    """
    known = {one.name: one for one in ARCHITECTURES}
    if name not in known:
        raise InputError(
            f"got the architecture {name!r}, expected {', '.join(known)}",
            where=where,
            fix="Use the model in Hugging Face's layout",
        )
    return known[name]


def architecture_for(model_class: str, where: str) -> GgufArchitecture:
    """The architecture a model of transformers is written as.

    Raises:
        InputError: it is none of those.
    """
    known = {one.model_class: one for one in ARCHITECTURES}
    known |= {other: architecture_named(name, where) for other, name in _SAME.items()}
    if model_class not in known:
        raise InputError(
            f"{model_class or 'a model without an architecture'} has no form in GGUF here, expected {', '.join(known)}",
            where=where,
            fix="Keep it in Hugging Face's layout",
        )
    return known[model_class]


def covering_heads(start: int, stop: int, rows: int, heads: int) -> tuple[int, int]:
    """The stored rows of the whole heads that rows `start` to `stop` belong to: `(first, last)`."""
    size = rows // heads
    return start // size * size, min(rows, -(-stop // size) * size)


def from_pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in llama.cpp's order, `(heads * size, ...)`, in transformers'; the inverse of its converter's `permute`."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in transformers' order in llama.cpp's, as its converter's `LlamaModel.permute`."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
