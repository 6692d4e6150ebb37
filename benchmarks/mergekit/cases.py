"""What is run live by both: one measurement for each command of mergekit that computes something.

Each returns the largest absolute difference of any entry of any tensor of the two outputs, in float32, or says what
mergekit does instead of an output. The models are those of tests/goldens/mergekit.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.cli.main import run
from genepool.weights import naming, open_weights

# The line of a traceback that names the error, without its module.
_ERROR = re.compile(r"(?:\w+\.)*(\w*(?:Error|Exception): .*)")


class Pair:
    """The models, a working folder, and both commands.

    Args:
        mergekit: the folder of mergekit's console scripts.
        place: the working folder.
        models: the folders of the models, by name.
    """

    def __init__(self, mergekit: Path, place: Path, models: dict[str, Path]) -> None:
        self.bin, self.place, self.models = mergekit, place, models

    def theirs(self, command: str, *arguments: object) -> str:
        """Runs a command of mergekit; what it prints.

        Raises:
            TheirsFailed: it fails; the error that it ended with.
        """
        words = [str(self.bin / command), *map(str, arguments)]
        settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=settings)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            errors = [found[1] for line in said if (found := _ERROR.match(line))]
            raise TheirsFailed((errors or said)[-1].replace(f"{self.place}/", ""))
        return done.stdout

    def ours(self, *arguments: object) -> None:
        """Runs a command of genepool.

        Raises:
            RuntimeError: it fails.
        """
        if run([*map(str, arguments), "--quiet"]):
            raise RuntimeError(f"genepool {' '.join(map(str, arguments))}")

    def file(self, name: str, data: object) -> Path:
        """Writes a file of YAML."""
        path = self.place / name
        path.write_text(yaml.safe_dump(data))
        return path

    def merged(self, command: str, name: str, data: object) -> float:
        """The difference of what both make of one file, which their `command` reads."""
        file, ours, theirs = self.file(f"{name}.yaml", data), self.place / name, self.place / f"{name}-theirs"
        self.theirs(command, file, theirs)
        self.ours("merge", file, ours)
        return largest_difference(ours, theirs)


class TheirsFailed(Exception):
    """A command of mergekit ended with an error."""


def largest_difference(one: Path | str, two: Path | str) -> float:
    """Between two models of the same tensors."""
    ours, theirs = (naming.in_memory_layout(open_weights(str(model))) for model in (one, two))
    if other := set(ours.names()) ^ set(theirs.names()):
        raise RuntimeError(f"the two models differ in {sorted(other)[:4]}")
    return max(float((ours.read(n).float() - theirs.read(n).float()).abs().max()) for n in theirs.names())


def shuffle(pair: Pair) -> float:
    """All the weight on one model, where nothing is left to chance."""
    theirs, ours, file = pair.place / "shuffled-theirs", pair.place / "shuffled", pair.place / "shuffled.yaml"
    models = pair.models["a"], pair.models["b"]
    pair.ours("shuffle", *models, "--weight", 0, "--weight", 1, "--out", file)
    pair.ours("merge", file, ours)
    pair.theirs("mergekit-layershuffle", theirs, "-m", models[0], "-m", models[1], "-w", 0, "-w", 1)
    return largest_difference(ours, theirs)


def _extracted(pair: Pair, name: str, theirs: list[str], ours: list[str]) -> float:
    """Between the models that the two adapters make of their base."""
    model, base = pair.models["a"], pair.models["base"]
    one, two = pair.place / name, pair.place / f"{name}-theirs"
    common = ["--model", model, "--base-model", base, "--out-path", two, "--max-rank", 3]
    pair.theirs("mergekit-extract-lora", *common, *theirs)
    pair.ours("skill", "convert", model, "--base", base, "--to", "peft", "--rank", 3, "--out", one, *ours)
    return largest_difference(f"{base}+{one}", f"{base}+{two}")


def extract(pair: Pair) -> float:
    """Rank 3, embedding and head whole."""
    return _extracted(pair, "lora", [], ["--whole", "embedding", "--whole", "head"])


def extract_embed(pair: Pair) -> float:
    """Rank 3, embedding and head as factors too."""
    return _extracted(pair, "lora-embed", ["--embed-lora"], [])


def files(pair: Pair) -> float:
    """Single files as models."""
    names = [str(pair.models[m] / "model.safetensors") for m in ("a", "b")]
    models = [{"model": name, "parameters": {"weight": w}} for name, w in zip(names, (0.3, 0.9), strict=True)]
    return pair.merged("mergekit-pytorch", "files", {"merge_method": "linear", "models": models, "dtype": "float32"})


def legacy(pair: Pair) -> float:
    """The recipe that it prints, merged by both."""
    theirs, file, ours = pair.place / "legacy-theirs", pair.place / "legacy.yaml", pair.place / "legacy"
    models = [word for m in ("a", "b") for word in ("--merge", pair.models[m])]
    more = ["--method", "ties", "--density", 0.5, "--weight", 0.7, "--base-model", pair.models["base"], "--print-yaml"]
    file.write_text(pair.theirs("mergekit-legacy", theirs, *models, *more))
    pair.ours("merge", file, ours)
    return largest_difference(ours, theirs)


def bakllama(pair: Pair) -> str:
    """The smallest file that its format allows."""
    slices = [{"model": str(pair.models["a"]), "start": 0, "end": 4}]
    pair.theirs("bakllama", pair.file("bakllama.yaml", {"layer_slices": slices}), pair.place / "bakllama")
    return "runs there"


def quantised(pair: Pair) -> str:
    """A model in FP8 with a scale per block, merged with one in float32: how far each is off."""
    folder, plain = pair.place / "fp8", pair.models["a"]
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((plain / name).read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if "_proj" not in name:
            stored[name] = values[name] = tensor
            continue
        # Every matrix is within one block; 448 is the largest number of E4M3.
        scale = tensor.abs().max().reshape(1, 1) / 448
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"], values[name] = scale, stored[name].float() * scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    weights = {str(folder): 0.25, str(pair.models["b"]): 0.75}
    models: list[dict[str, Any]] = [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]
    recipe = pair.file("fp8.yaml", {"merge_method": "linear", "models": models, "dtype": "float32"})
    other = load_file(pair.models["b"] / "model.safetensors")
    expected = {name: 0.25 * value + 0.75 * other[name] for name, value in values.items()}

    def off(out: Path) -> float:
        merged = open_weights(str(out))
        return max(float((merged.read(name).float() - value).abs().max()) for name, value in expected.items())

    pair.ours("merge", recipe, pair.place / "fp8-merged")
    here = f"here {off(pair.place / 'fp8-merged'):.1e} off"
    try:
        pair.theirs("mergekit-yaml", recipe, pair.place / "fp8-theirs")
    except TheirsFailed as failed:
        return f"fails there ({failed}); {here}"
    return f"runs there, {off(pair.place / 'fp8-theirs'):.1e} off; {here}"


CASES: dict[str, Callable[[Pair], float | str]] = {
    "shuffle": shuffle, "extract": extract,
    "extract embed": extract_embed, "files": files, "legacy": legacy, "bakllama": bakllama, "quantised": quantised,
}  # fmt: skip
