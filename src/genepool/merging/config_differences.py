"""Where the configs of models differ in what their weights mean: RoPE, context, labels, activation, norms, end tokens.

A merge adds up weights and takes one model's config. The configs are compared as transformers reads them, with every
default filled in, so that an older file and a newer one that say the same do not differ. Plans, cards and inspection
tell what is found here; `config:` in a recipe says whose config goes along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.errors import InputError, listed
from genepool.weights import Weights
from genepool.weights.architecture import architecture_of
from genepool.weights.carried import GENERATION_FILE
from genepool.weights.json_file import read_json

# Settings of training, of storage and of what is given back; none of them changes what the weights compute.
_WITHOUT_EFFECT = re.compile(
    r"_name_or_path|transformers_version|dtype|torch_dtype|_commit_hash|architectures|auto_map|use_cache|return_dict"
    r"|output_(attentions|hidden_states|scores|router_logits)|gradient_checkpointing|problem_type|pruned_heads"
    r"|.*drop(out|path|_path)?(_rate|_prob)?|.*dropout.*|.*_pdrop|initializer_.*|init_.*|.*_init_.*|router_aux_loss_coef"
    r"|pretraining_tp|_.*|chunk_size_feed_forward|label_smoothing|mask_(time|feature)_.*|.*_loss.*|unsloth_.*"
    r"|tie_word_embeddings|quantization_config|is_decoder|use_flash_attn|attn_implementation"
)
_DEPTH = re.compile(r"num_hidden_layers|n_layers?|num_layers|layer_types(\.\d+)?|.*_layer_types(\.\d+)?")
# What ends and fills up an answer: these go with the tokenizer, by the name of the file they stand in.
_GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_NESTED, _SHOWN = 4, 3


@dataclass(frozen=True)
class ConfigDifference:
    """One setting that not all models have alike.

    Attributes:
        key: dotted ("rope_parameters.rope_theta"); those of generation_config.json follow its name and a colon.
        values: model -> what it says there; None where it says nothing.
    """

    key: str
    values: Mapping[str, Any]

    @property
    def of_generation(self) -> bool:
        """Whether it is one of generation_config.json, which goes with the tokenizer."""
        return self.key.startswith(f"{GENERATION_FILE}:")

    def __str__(self) -> str:
        groups: dict[str, list[str]] = {}
        for model, value in self.values.items():
            groups.setdefault(_value_text(value), []).append(model)
        return f"{self.key} is {', '.join(f'{value} in {listed(models)}' for value, models in groups.items())}"


def config_differences(
    sources: Mapping[str, Weights], *, depth: bool = True, vocabulary: bool = True
) -> tuple[ConfigDifference, ...]:
    """Every setting in which the models differ and that means something for their weights.

    Args:
        sources: the models by name. Those without a config are not compared.
        depth: whether the numbers of layers count; not where a recipe takes layers from here and there.
        vocabulary: whether the numbers of tokens count; not where they are padded.
    """
    raw = {name: weights.config for name, weights in sources.items() if weights.config is not None}
    if len(raw) < 2:
        return ()
    settings = _comparable(raw)
    keys = dict.fromkeys(key for found in settings.values() for key in found)
    differences = []
    for key in keys:
        leaf = key.rpartition(".")[2]
        if (not depth and _DEPTH.fullmatch(key)) or (not vocabulary and leaf == "vocab_size"):
            continue
        values = {model: found.get(key) for model, found in settings.items()}
        if len({json.dumps(value, sort_keys=True, default=str) for value in values.values()}) > 1:
            differences.append(ConfigDifference(key, values))
    return (*differences, *_generation(sources))


def difference_notes(differences: Iterable[ConfigDifference], config_of: str, tokenizer_of: str) -> list[str]:
    """What was found, in a clause for each key of the recipe that chooses.

    Args:
        differences: what was found.
        config_of, tokenizer_of: the models whose config and tokenizer the result has.
    """
    notes = []
    for key, taken, generation in (("config", config_of, False), ("tokenizer", tokenizer_of, True)):
        found = [str(one) for one in differences if one.of_generation == generation]
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            shown = "; ".join(found[:_SHOWN])
            notes.append(f"configs differ: {shown}{more}. `{key}:` chooses whose goes along, here {taken}'s")
    return notes


def _comparable(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The configs as one kind of mapping: read by transformers if it knows all of them, else as they stand."""
    if len({json.dumps(config, sort_keys=True, default=str) for config in raw.values()}) == 1:
        return {name: {} for name in raw}
    known = {name: architecture_of(config) for name, config in raw.items()}
    return {
        name: _flat(config if any(one is None for one in known.values()) else known[name].settings)  # type: ignore[union-attr]
        for name, config in raw.items()
    }


def _flat(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if _WITHOUT_EFFECT.fullmatch(str(key)):
            continue
        if isinstance(value, Mapping) and depth < _NESTED:
            found.update(_flat(value, f"{prefix}{key}.", depth + 1))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _generation(sources: Mapping[str, Weights]) -> list[ConfigDifference]:
    """Where the files beside the models name other tokens that end an answer."""
    said = {name: _generation_settings(weights.tokenizer_folder) for name, weights in sources.items()}
    present = {name: found for name, found in said.items() if found is not None}
    differences = []
    for key in _GENERATION:
        values = {name: found.get(key) for name, found in present.items()}
        if len({json.dumps(value) for value in values.values()}) > 1:
            differences.append(ConfigDifference(f"{GENERATION_FILE}:{key}", values))
    return differences


def _generation_settings(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    try:
        return read_json(folder / GENERATION_FILE)
    except InputError:
        # What is not there or broken says nothing; whoever reads it tells the rest.
        return None


def _value_text(value: Any) -> str:
    if value is None:
        return "not there"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
