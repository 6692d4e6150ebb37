"""Mixtures of experts by both: every way of making gates, noise, and shared experts.

What is left to chance is drawn from one source: mergekit is given genepool's noise, and its generator begins the gates
with genepool's seed. It loads the model that hidden states are asked of in float32, where `mergekit-moe` says bfloat16.
The prompts of one expert have one length, since mergekit's mean counts padding as tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.mergekit.cases import Pair, largest_difference
from genepool import seeding
from genepool.merging.mixture.weights import noise
from genepool.weights import open_weights

_ONE: Mapping[str, Any] = {"source_model": "a", "positive_prompts": ["abc"], "negative_prompts": ["sad"]}
_TWO: Mapping[str, Any] = {"source_model": "b", "positive_prompts": ["sad", "cat"], "residual_scale": 0.5}
# mergekit opens the base and the experts only.
_SHARED: Mapping[str, Any] = {"source_model": "base", "residual_scale": 0.5}
_NOISY: Mapping[str, Any] = {"noise_scale": 0.02}
_BY_EMBEDDING: Mapping[str, Any] = {
    "base_model": "base",
    "gate_mode": "cheap_embed",
    "experts": [_ONE, _TWO],
    "dtype": "float32",
    "experts_per_token": 1,
    "architecture": "mixtral",
}
_WITH_SHARED: Mapping[str, Any] = {**_BY_EMBEDDING, "architecture": "deepseek", "shared_experts": [_SHARED]}
#: Name -> the file. Models are called by their names.
MIXTURES: Mapping[str, Mapping[str, Any]] = {
    "cheap_embed": _BY_EMBEDDING,
    **{
        mode: {**_BY_EMBEDDING, "gate_mode": mode}
        for mode in ("hidden", "hidden_avg", "hidden_last", "random", "uniform_random")
    },
    "shared, without a gate": _WITH_SHARED,
    "shared, with a gate": {
        **_WITH_SHARED, "architecture": "qwen", "shared_experts": [{**_SHARED, "positive_prompts": ["bad cat"]}],
    },
    "noise": {**_WITH_SHARED, "experts": [{**_ONE, **_NOISY}, _TWO], "shared_experts": [{**_SHARED, **_NOISY}]},
}  # fmt: skip

# The seed of a mixture unless its file or the command says another.
_SEED = 0


def measure(pair: Pair) -> dict[str, float]:
    """The largest difference of each mixture of `MIXTURES`, in float32."""
    files = {name: pair.file(f"mixture {name}.yaml", _placed(pair, one)) for name, one in MIXTURES.items()}
    theirs = {name: pair.place / f"mixture {name}, theirs" for name in files}
    words = [word for name in files for word in (files[name], theirs[name])]
    seed = seeding.derive(_SEED, "gates")
    pair.theirs("python", Path(__file__).parent / "run_mixtures.py", _noise(pair), seed, *words)
    found = {}
    for name, file in files.items():
        pair.ours("merge", file, pair.place / f"mixture {name}")
        found[name] = largest_difference(pair.place / f"mixture {name}", theirs[name])
    return found


def used(mixture: Mapping[str, Any]) -> Iterator[str]:
    """What the file of a mixture uses, as `part.key`."""
    yield from (f"mixture.{key}" for key in mixture)
    for expert in (*mixture["experts"], *mixture.get("shared_experts", ())):
        yield from (f"expert.{key}" for key in expert)


def _placed(pair: Pair, mixture: Mapping[str, Any]) -> dict[str, Any]:
    """The file with the folders of the models."""
    experts = {
        key: [{**one, "source_model": str(pair.models[one["source_model"]])} for one in mixture[key]]
        for key in ("experts", "shared_experts")
        if key in mixture
    }
    return {**mixture, "base_model": str(pair.models[mixture["base_model"]]), **experts}


def _noise(pair: Pair) -> Path:
    """The noise that genepool adds to every matrix of an expert, in the architecture of the mixtures with noise."""
    base, file = open_weights(str(pair.models["base"])), pair.place / "noise.safetensors"
    numbers = {}
    for name in base.names():
        before, mlp, matrix = name.partition(".mlp.")
        for place in ("experts.0", "experts.1", "shared_experts") if mlp else ():
            tensor = f"{before}{mlp}{place}.{matrix}"
            numbers[tensor] = noise(_SEED, tensor, base.info(name).numel)
    save_file(numbers, file)
    return file
