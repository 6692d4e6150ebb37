"""The tiny checkpoints behind the mergekit goldens, rebuilt bit for bit from a seed.

Nothing but integer draws and exact float64 additions is used, so every machine gets the same bytes and no input
has to be stored. `make_goldens.py` and the tests that read the goldens both import this file; it needs numpy only.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER = 8, 4, 2, 1, 4, 11
TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrst "]
METHOD_PREFIXES = ("linear", "task_arithmetic", "ties", "dare", "slerp", "model_stock", "passthrough")
SEED = 20240618
# Values lie on multiples of this, so a delta to the base is exact in fp32 and opposite deltas cancel exactly.
GRID = 2.0**-20
CHAT_TEMPLATES = {
    "base": None,
    "a": "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}",
    "b": "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}",
    "c": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}",
}

# Tokens behind the common ones; those of `ADDED` stand beside the vocabulary, and whether each is special.
EXTENSIONS = {"c_extended": ["Z"], "d_extended": ["Z", "<call>", "ab"], "e_extended": ["Y", "Z", "<think>"]}
ADDED = {"<call>": True, "ab": False, "<think>": True}

# name -> how it differs from the plain untied fp32 fine-tune; see `tensors` for what each word does
MODELS: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "a": frozenset(),
    "b": frozenset(),
    "c": frozenset(),
    "still": frozenset({"still"}),  # equals the base in layer 1 and in embedding, head and final norm
    "anti": frozenset({"anti"}),  # its deltas are exactly those of `a`, negated
    "close": frozenset({"close"}),  # a hundredth of the usual distance: slerp falls back to lerp
    "mirror": frozenset({"close", "mirror"}),  # `close`-like, every value negated: an angle of half a turn
    "far": frozenset({"far"}),  # shares nothing with the base: a wide angle
    "a_bf16": frozenset({"bf16"}),  # `a`, rounded to bfloat16 and stored so
    "base_tied": frozenset({"tied"}),  # no lm_head.weight; the config ties the embeddings
    "a_tied": frozenset({"tied"}),
    "b_tied": frozenset({"tied"}),
    "a_padded": frozenset({"padded"}),  # `a` with eight more rows than tokens in embedding and head
    "b_permuted": frozenset({"permuted"}),  # `b` with the token ids in another order
    "c_extended": frozenset({"extended"}),  # `c` with a token of its own at the end
    "d_extended": frozenset({"extended"}),  # `d` with the same one and two added tokens
    "e_extended": frozenset({"extended"}),  # `e` with two of its own and another added token under an id of theirs
    "a_deep": frozenset({"deep"}),  # `a` with six layers
}


def _noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Unit-variance bell-shaped noise as float64: the sum of four uniforms, scaled by an exact constant."""
    seed = int.from_bytes(hashlib.sha256(f"{SEED}/{name}".encode()).digest()[:8], "little")
    count = int(np.prod(shape))
    raw = np.random.PCG64(seed).random_raw(4 * count).reshape(4, count) >> np.uint64(11)
    uniform = raw.astype(np.float64) * 2.0**-53
    total = uniform[0] + uniform[1] + uniform[2] + uniform[3] - 2.0
    return (total * 1.7320508075688772).reshape(shape)


def _on_grid(values: np.ndarray) -> np.ndarray:
    return (np.rint(values / GRID) * GRID).astype(np.float32)


def layers_of(model: str) -> int:
    """The number of decoder layers of `model`."""
    return 6 if "deep" in MODELS[model] else LAYERS


def tokens_of(model: str) -> list[str]:
    """The tokens of `model` in the order of their ids."""
    if "permuted" in MODELS[model]:
        return TOKENS[:3] + TOKENS[3:][::-1]
    if "extended" in MODELS[model]:
        return [*TOKENS, *EXTENSIONS[model]]
    return TOKENS


def rows_of(model: str) -> int:
    """The rows of embedding and head: the config's `vocab_size`."""
    return len(tokens_of(model)) + (8 if "padded" in MODELS[model] else 0)


def shapes(layers: int = LAYERS, rows: int = len(TOKENS), tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama of this testbed."""
    result: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        result |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "mlp.down_proj.weight": (HIDDEN, INNER),
            prefix + "mlp.gate_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.up_proj.weight": (INNER, HIDDEN),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            prefix + "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        }
    result["model.norm.weight"] = (HIDDEN,)
    if not tied:
        result["lm_head.weight"] = (rows, HIDDEN)
    return result


def _base_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    spread = 0.1 if len(shape) == 1 else 0.3
    return _on_grid((1.0 if len(shape) == 1 else 0.0) + spread * _noise(f"base/{name}", shape))


def _fine_tune(who: str, name: str, shape: tuple[int, ...], distance: float) -> np.ndarray:
    """The base plus noise of `distance` times the tensor's spread, part of it shared by all fine-tunes."""
    spread = 0.1 if len(shape) == 1 else 0.3
    step = 0.8 * _noise(f"{who}/{name}", shape) + 0.6 * _noise(f"shared/{name}", shape)
    return _base_values(name, shape) + _on_grid(distance * spread * step)


def _token_rows(model: str, name: str, who: str) -> np.ndarray:
    plain = (len(TOKENS), HIDDEN)
    values = _base_values(name, plain) if who == "base" else _fine_tune(who, name, plain, 0.05)
    kinds = MODELS[model]
    if "permuted" in kinds:
        values = values[[TOKENS.index(token) for token in tokens_of(model)]]
    extra = rows_of(model) - len(TOKENS)
    if extra > 0:
        values = np.concatenate([values, _on_grid(0.3 * _noise(f"{model}/extra/{name}", (extra, HIDDEN)))])
    return values


def _values(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    kinds = MODELS[model]
    who = model.split("_")[0]
    if kinds & {"padded", "permuted", "extended"} and name in ("model.embed_tokens.weight", "lm_head.weight"):
        return _token_rows(model, name, who)
    if model == "base" or who == "base":
        return _base_values(name, shape)
    if "far" in kinds:
        return _on_grid((1.0 if len(shape) == 1 else 0.0) + 0.3 * _noise(f"far/{name}", shape))
    if "anti" in kinds:
        base = _base_values(name, shape)
        return base - (_fine_tune("a", name, shape, 0.05) - base)
    if "still" in kinds and (".layers." not in name or ".layers.1." in name):
        return _base_values(name, shape)
    values = _fine_tune(who, name, shape, 0.0005 if "close" in kinds else 0.05)
    return -values if "mirror" in kinds else values


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The upper halves of fp32 values, rounded to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def tensors(model: str) -> dict[str, np.ndarray]:
    """The tensors of `model` as float32 (those of a bf16 model hold values that bfloat16 can represent)."""
    kinds = MODELS[model]
    layout = shapes(layers_of(model), rows_of(model), "tied" in kinds)
    result = {name: _values(model, name, shape) for name, shape in layout.items()}
    if "bf16" in kinds:
        result = {
            name: (_bfloat16_bits(values).astype(np.uint32) << np.uint32(16)).view(np.float32)
            for name, values in result.items()
        }
    return result


def config(model: str) -> dict[str, object]:
    """The config.json of `model`."""
    kinds = MODELS[model]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers_of(model),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": rows_of(model),
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": "tied" in kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16" if "bf16" in kinds else "float32",
    }


def _tokenizer(model: str) -> dict[str, object]:
    tokens = tokens_of(model)
    special = dict.fromkeys(TOKENS[:3], True) | {token: ADDED[token] for token in tokens if token in ADDED}
    added = [
        {
            "id": tokens.index(token),
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": not is_special,
            "special": is_special,
        }
        for token, is_special in special.items()
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens) if token not in ADDED},
            "merges": [],
        },
    }


def write_model(model: str, folder: Path) -> Path:
    """Write `model` as a Hugging Face folder (one safetensors file) and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    bf16 = "bf16" in MODELS[model]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    payload = b""
    for name, values in tensors(model).items():
        data = np.ascontiguousarray(_bfloat16_bits(values) if bf16 else values).tobytes()
        header[name] = {
            "dtype": "BF16" if bf16 else "F32",
            "shape": list(values.shape),
            "data_offsets": [len(payload), len(payload) + len(data)],
        }
        payload += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + payload)
    tokenizer_config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 64,
    }
    template = CHAT_TEMPLATES.get(model)
    if template:
        tokenizer_config["chat_template"] = template
    for file, content in (
        ("config.json", config(model)),
        ("tokenizer.json", _tokenizer(model)),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def write_models(folder: Path) -> dict[str, Path]:
    """Write every model below `folder`; name -> its folder."""
    return {model: write_model(model, folder / model) for model in MODELS}


def filled(recipe: str, folders: dict[str, Path]) -> str:
    """The text of a recipe with its `{base}`-like placeholders replaced by the folders."""
    for model, folder in folders.items():
        recipe = recipe.replace("{" + model + "}", str(folder))
    return recipe


def recipes() -> Iterator[Path]:
    """Every recipe file: those named after a method first, so that shared outputs carry a telling name."""

    def order(path: Path) -> tuple[bool, str]:
        return not path.stem.startswith(METHOD_PREFIXES), path.stem

    yield from sorted((Path(__file__).parent / "recipes").glob("*.yaml"), key=order)
