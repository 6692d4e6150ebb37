"""Runs mergekit-tokensurgeon on the models of `inputs.py` and stores the rows it estimated, in `transplants.json`.

Run it with the Python of the same venv as `make_goldens.py`. Each entry has the options of a run, the tokens that the
model lacks, and for embedding and head one row of numbers for each of them.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import inputs
import torch
from mergekit.scripts import tokensurgeon
from safetensors.torch import load_file

HERE = Path(__file__).parent
MODEL, DONOR = "a", "d_extended"
RUNS = {
    "omp of 1": ["-a", "omp", "-k", "1"],
    "omp of 3": ["-a", "omp", "-k", "3"],
    "omp of 8": ["-a", "omp", "-k", "8"],
    "nearest 4": ["-a", "common_interpolation", "-k", "4"],
    "subword": ["-a", "subword"],
    "mean": ["-a", "mean"],
    "zero": ["-a", "zero"],
}


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lacking = [token for token in inputs.tokens_of(DONOR) if token not in inputs.tokens_of(MODEL)]
    runs = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = inputs.write_models(Path(temporary) / "models")
        for title, options in RUNS.items():
            out = Path(temporary) / title.replace(" ", "_")
            arguments = [str(folders[MODEL]), str(folders[DONOR]), str(out), *options]
            tokensurgeon.main(arguments, standalone_mode=False)
            tensors = load_file(out / "model.safetensors")
            numbers = [inputs.tokens_of(DONOR).index(token) for token in lacking]
            runs[title] = {
                name: [[float(value) for value in tensors[name][number]] for number in numbers]
                for name in ("model.embed_tokens.weight", "lm_head.weight")
            }
    made_with = {name: version(name) for name in ("mergekit", "torch")}
    content = {"made_with": made_with, "model": MODEL, "donor": DONOR, "lacking": lacking, "runs": runs}
    (HERE / "transplants.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
