"""Stores what mergekit's genome makes of random genotypes: `evolve.json`, one recipe for each.

Run it with the Python of a venv that holds mergekit, as `make_goldens.py` says:

    mk/bin/python tests/goldens/mergekit/make_evolve_goldens.py

Models are called by plain names; only the number of layers is read of one, so none is written.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition
from transformers import LlamaConfig

HERE = Path(__file__).parent
LAYERS = 4
DEFINITIONS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "layer_granularity": 2},
    "linear_base_listed": {"merge_method": "linear", "base_model": "a"},
    "linear_negative": {"merge_method": "linear", "allow_negative_weights": True, "normalize": False},
    "linear_filters": {"merge_method": "linear", "layer_granularity": 4, "filters": ["mlp", "self_attn"]},
    "linear_smooth": {"merge_method": "linear", "layer_granularity": 1, "smooth": True},
    "task_arithmetic": {"merge_method": "task_arithmetic", "base_model": "base", "layer_granularity": 1},
    "task_arithmetic_whole": {"merge_method": "task_arithmetic", "base_model": "base", "normalize": True},
    "ties": {"merge_method": "ties", "base_model": "base", "layer_granularity": 2},
    "ties_smooth": {
        "merge_method": "ties", "base_model": "base", "layer_granularity": 2, "smooth": True, "filters": ["mlp"],
    },
    "dare_ties": {"merge_method": "dare_ties", "base_model": "base", "filters": ["mlp"], "layer_granularity": 2},
    "slerp": {"merge_method": "slerp", "layer_granularity": 2},
    "linear_tokens": {"merge_method": "linear", "tokenizer_source": "union"},
}  # fmt: skip


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for model in ("base", "a", "b", "c"):
            LlamaConfig(num_hidden_layers=LAYERS).save_pretrained(Path(temporary) / model)
        for number, (name, given) in enumerate(DEFINITIONS.items()):
            listed = {"models": ["a", "b", "c"], **given}
            placed = {**listed, "models": [f"{temporary}/{one}" for one in listed["models"]]}
            if "base_model" in placed:
                placed["base_model"] = f"{temporary}/{placed['base_model']}"
            genome = ModelGenome(ModelGenomeDefinition.model_validate(placed))
            start = genome.initial_genotype().view(-1).numpy().astype(np.float64)
            x = np.round(start + np.random.default_rng(number).normal(size=start.shape), 4)
            config = genome.genotype_merge_config(x).model_dump(mode="json", exclude_none=True)
            plain = json.loads(json.dumps(config).replace(f"{temporary}/", ""))
            found[name] = {"genome": listed, "start": start.tolist(), "genotype": x.tolist(), "recipe": plain}
    made = {"made_with": {"mergekit": version("mergekit")}, "layers": LAYERS, "genomes": found}
    (HERE / "evolve.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
