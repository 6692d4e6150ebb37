"""Which tensors of a model have one row per token, how many those are, and what its settings say of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genepool.checked import is_whole
from genepool.weights.carried import GENERATION_FILE
from genepool.weights.json_file import read_json
from genepool.weights.roles import infer_roles
from genepool.weights.weights import Weights

# What a config says in ids of tokens, which are those of a tokenizer: they go with it.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "mask_token_id", "sep_token_id")

# Where transformers' configs have that of what writes or reads text (`get_text_config`), the likeliest first; other
# keys of configs end in `_config`.
_TEXT_PARTS = ("text_config", "decoder", "generator", "text_encoder", "encoder")
# A config within another one: that of a text model in one of a speaker is at depth 2.
_DEEPEST = 4


def vocabulary_rows(weights: Weights) -> dict[str, int]:
    """The tensors with one row per token (embeddings, heads and their biases) -> how many rows each has.

    Position embeddings are not among them: a tensor counts only if it has as many rows as the config says there are
    tokens, or, without a config, as the first embedding has.
    """
    infos = {name: weights.info(name) for name in weights.names()}
    found = {
        name: infos[name].shape[0]
        for name, role in infer_roles(infos).items()
        if role.part in ("embedding", "head") and role.layer is None and infos[name].shape
    }
    said = _vocab_size(weights.config or {})
    rows = said if said in found.values() else next(iter(found.values()), 0)
    return {name: count for name, count in found.items() if count == rows}


def _vocab_size(config: Mapping[str, Any], depth: int = _DEEPEST) -> int | None:
    """The number of tokens that a config says, at its top or else of the first part that says one."""
    size = config.get("vocab_size")
    if isinstance(size, int) or not depth:
        return size if isinstance(size, int) else None
    sizes = (_vocab_size(part, depth - 1) for part in _parts(config).values())
    return next((size for size in sizes if size is not None), None)


def _parts(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The configs inside a config, those of what writes or reads text first."""
    found = {
        key: value
        for key, value in config.items()
        if isinstance(value, Mapping) and (key.endswith("_config") or key in _TEXT_PARTS)
    }
    return {key: found[key] for key in dict.fromkeys((*_TEXT_PARTS, *found)) if key in found}


def _text_parts(config: Mapping[str, Any], depth: int = _DEEPEST) -> dict[str, Mapping[str, Any]]:
    """Those of them that are about the same tokens, or hold one that is: the others count sounds, pictures or codes."""
    size = _vocab_size(config)
    return {
        key: part
        for key, part in (_parts(config) if depth else {}).items()
        if key == _TEXT_PARTS[0]
        or (size is not None and part.get("vocab_size") == size)
        or _holds(part, size, depth - 1)
    }


def _holds(part: Mapping[str, Any], size: int | None, depth: int) -> bool:
    return size is not None and _vocab_size(part) == size and bool(_text_parts(part, depth))


def with_vocab_size(config: Mapping[str, Any] | None, rows: int) -> Mapping[str, Any] | None:
    """A config that says so many tokens, wherever it says how many there are."""
    if config is None:
        return None
    inner = {key: with_vocab_size(part, rows) for key, part in _text_parts(config).items()}
    return {**config, **inner, **({"vocab_size": rows} if "vocab_size" in config else {})}


def token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says in ids of tokens, at its top or of the text model inside it, however deep.

    These are the ids of `SPECIAL_IDS`, and those that a model itself looks for or begins with: "image_token_id",
    "decoder_start_token_id".
    """
    said: dict[str, Any] = {}
    for part in reversed(_text_parts(config).values()):
        said |= token_ids(part)
    return said | {key: value for key, value in config.items() if key in SPECIAL_IDS or _is_models_own(key)}


def with_special_ids(settings: Mapping[str, Any], ids: Mapping[str, Any], moved: Mapping[int, int]) -> dict[str, Any]:
    """Settings of a model with another tokenizer's ids; of a part that no token plays there is none, not a wrong one.

    Args:
        settings: what config.json or generation_config.json says.
        ids: what the tokenizer's own model says (`token_ids`), or the tokenizer's settings.
        moved: id of a token of the model -> the id that the same token has now. What the model itself looks for, and
            the tokenizer's model does not, goes by it.
    """
    inner = _text_parts(settings)
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if _is_models_own(key):
            known = ids[key] if key in ids else _moved(value, moved)
            # None says that there is no such token.
            if known is not None or value is None:
                result[key] = known
        elif key not in SPECIAL_IDS:
            result[key] = value
    result |= {key: with_special_ids(part, ids, moved) for key, part in inner.items()}
    if not inner or any(key in settings for key in SPECIAL_IDS):
        result |= {key: ids[key] for key in SPECIAL_IDS if key in ids}
    return result


def _is_models_own(key: str) -> bool:
    """Whether a setting is the id of a token that a model looks for or begins with."""
    return key.endswith(("_token_id", "_token_index")) and key not in SPECIAL_IDS


def _moved(value: Any, moved: Mapping[int, int]) -> Any:
    """The new ids of one token or of several; None where there is none. What is no id stays, such as LLaVA's -200."""
    if isinstance(value, list):
        return [moved[one] for one in value if is_whole(one) and one in moved] or None
    return moved.get(value) if is_whole(value, 0) else value


def generation_settings(
    model: Path | None, tokenizer: Path | None, ids: Mapping[str, Any], moved: Mapping[int, int]
) -> dict[str, Any] | None:
    """How a model with another tokenizer writes; None where the tokenizer's own file says it, or no file does.

    Args:
        model: folder of the model.
        tokenizer: folder of the tokenizer, whose generation_config.json would go along.
        ids, moved: as for `with_special_ids`.

    Raises:
        InputError: the model's generation_config.json cannot be read.
    """
    if model is None or tokenizer is None or (tokenizer / GENERATION_FILE).is_file():
        return None
    mine = model / GENERATION_FILE
    return with_special_ids(read_json(mine), ids, moved) if mine.is_file() else None
