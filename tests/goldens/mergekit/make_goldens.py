"""Runs every recipe of `recipes/` through mergekit and stores what it wrote.

Run it with the Python of a venv that holds mergekit and nothing of genepool:

    python -m venv mk && mk/bin/pip install torch==2.13.0 mergekit==0.1.5
    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 mk/bin/python tests/goldens/mergekit/make_goldens.py

It rewrites `outputs/*.safetensors` (one per distinct result), `manifest.json` (per recipe: which file, the facts of
the config it wrote, or the error) and `dare.json` (figures of random runs). Nothing of mergekit is stored, only
the numbers it computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import inputs
import numpy as np
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts import multimerge
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
DARE_SEEDS = 200
# Recipes whose tokenizers are written down, and what is split by them.
VOCABULARY_PREFIX = "vocabulary_"
TEXTS = ("abc", "sad cat", "YZ<call>a", "<think>bad ab", "<s>Zab</s>", "f<new>g")
CONFIG_KEYS = ("num_hidden_layers", "vocab_size", "tie_word_embeddings", "dtype", "torch_dtype")


def merge(recipe: str, out: Path, seed: int | None = None) -> None:
    """One mergekit run, as `mergekit-yaml` does it, or `mergekit-multi` where the recipe has several documents."""
    LoaderCache().loaders.clear()
    if "\n---\n" in recipe:
        file = out.with_suffix(".yaml")
        file.write_text(recipe, encoding="utf-8")
        arguments = [str(file), "--out-path", str(out), "-I", str(out) + "-parts", "--no-write-model-card", "--quiet"]
        multimerge.main(arguments, standalone_mode=False)
        return
    options = MergeOptions(quiet=True, random_seed=seed, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(recipe)), str(out), options)


def read(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors below `folder`, by name."""
    result = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            result |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return dict(sorted(result.items()))


def facts(folder: Path, base: bool) -> dict[str, object]:
    """What a reader of the output folder sees besides the tensors; without a base the tokenizer's donor varies."""
    config = json.loads((folder / "config.json").read_text())
    result: dict[str, object] = {key: config[key] for key in CONFIG_KEYS if key in config}
    tokenizer = folder / "tokenizer_config.json"
    if base and tokenizer.exists():
        template = json.loads(tokenizer.read_text()).get("chat_template")
        jinja = folder / "chat_template.jinja"
        result["chat_template"] = jinja.read_text() if jinja.exists() else template
    result["files"] = sorted(file.name for file in folder.iterdir())
    return result


def tokenizer_facts(folder: Path) -> dict[str, object]:
    """The tokens of an output, in the order of their ids, which new ones have by chance; and texts, split into them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    split = {text: "|".join(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])) for text in TEXTS}
    return {"tokens": "|".join(sorted(vocabulary, key=vocabulary.__getitem__)), "texts": split}


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """A digest of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def dare_figures(folders: dict[str, Path], work: Path) -> dict[str, object]:
    """Kept shares and norm ratios of DARE at density 0.5 over many seeds, one expert at weight 1."""
    base, expert = inputs.tensors("base"), inputs.tensors("a")
    result: dict[str, object] = {}
    for method in ("dare_linear", "dare_ties"):
        for rescale in (True, False):
            kept: list[float] = []
            ratios: list[float] = []
            mean_delta = {name: np.zeros(values.shape) for name, values in base.items()}
            for seed in range(DARE_SEEDS):
                recipe = inputs.filled(
                    f"merge_method: {method}\nbase_model: {{base}}\ndtype: float32\nmodels:\n  - model: {{a}}\n"
                    f"parameters:\n  weight: 1.0\n  density: 0.5\n  rescale: {str(rescale).lower()}\n",
                    folders,
                )
                out = work / "dare"
                merge(recipe, out, seed)
                merged = read(out)
                shutil.rmtree(out)
                for name, values in base.items():
                    delta = merged[name].numpy().astype(np.float64) - values
                    full = expert[name].astype(np.float64) - values
                    kept.append(float((delta[full != 0] != 0).mean()))
                    if np.abs(delta).sum() > 0:
                        ratios.append(float(np.abs(delta).sum() / np.abs(full).sum()))
                    mean_delta[name] += delta / DARE_SEEDS
            full_all = np.concatenate([(expert[n] - base[n]).ravel() for n in base]).astype(np.float64)
            mean_all = np.concatenate([mean_delta[n].ravel() for n in base])
            result[f"{method}, rescale {str(rescale).lower()}"] = {
                "kept_share": float(np.mean(kept)),
                "l1_ratio_mean": float(np.mean(ratios)),
                "l1_ratio_largest_distance_from_one": float(np.max(np.abs(np.array(ratios) - 1))),
                "slope_of_mean_delta_on_delta": float(full_all @ mean_all / (full_all @ full_all)),
            }
    return {"seeds": DARE_SEEDS, "density": 0.5, "figures": result}


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    outputs = HERE / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    outputs.mkdir()
    manifest: dict[str, object] = {
        "made_with": {name: version(name) for name in ("mergekit", "torch", "transformers", "safetensors")},
        "recipes": {},
    }
    seen: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = inputs.write_models(work / "models")
        for path in inputs.recipes():
            out = work / path.stem
            entry: dict[str, object] = {}
            recipe = inputs.filled(path.read_text(encoding="utf-8"), folders)
            try:
                merge(recipe, out)
            except Exception as error:
                text = str(error).replace(str(work / "models") + "/", "")
                entry["error"] = f"{type(error).__name__}: {' '.join(text.split())}"[:300]
            else:
                tensors = read(out)
                key = fingerprint(tensors)
                if key not in seen:
                    seen[key] = path.stem
                    save_file(tensors, outputs / f"{path.stem}.safetensors")
                entry = {"outputs": seen[key], **facts(out, "base_model" in recipe)}
                if path.stem.startswith(VOCABULARY_PREFIX):
                    entry |= tokenizer_facts(out)
            manifest["recipes"][path.stem] = entry  # type: ignore[index]
            print(path.stem, entry.get("error") or entry["outputs"], file=sys.stderr)
        if "--keep-dare" not in sys.argv:
            figures = dare_figures(folders, work)
            (HERE / "dare.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
