"""Merging synthetic checkpoints, against reading the inputs and writing the output with nothing in between.

Llama shapes with random weights, one base and three fine-tunes (base plus noise of 5% of each tensor's spread), bf16.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measuring import table, time_in_turn
from genepool.weights import TensorWeights, write_checkpoint

HIDDEN, INNER, LAYERS, VOCABULARY = 1024, 2816, 16, 32000
METHODS = {
    "linear": "{}",
    "task_arithmetic": "{lambda: 0.4}",
    "model_stock": "{}",
    "ties, per tensor": "{density: 0.2, scope: tensor, zero_sign: positive}",
    "ties, whole vector": "{density: 0.2}",
    "dare_ties, per tensor": "{density: 0.5, trim_density: 1.0, scope: tensor, zero_sign: positive}",
}
FLOOR = """
import sys
buffer = bytearray(1 << 24)
out = open(sys.argv[2], "wb", buffering=0)
for number, name in enumerate(("base", "a", "b", "c")):
    with open(f"{sys.argv[1]}/{name}/model.safetensors", "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if number == 0:
                out.write(memoryview(buffer)[:count])
"""


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (HIDDEN, INNER), f"{layer}input_layernorm.weight": (HIDDEN,)}
        shapes |= {f"{layer}post_attention_layernorm.weight": (HIDDEN,)}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def make_models(folder: Path) -> float:
    """Writes base, a, b and c below `folder`; returns the parameters of one, in billions."""
    generator = torch.Generator().manual_seed(0)
    base = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in _shapes().items()}
    for model in ("base", "a", "b", "c"):
        moved = base
        if model != "base":
            moved = {
                name: value + 0.05 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
                for name, value in base.items()
            }
        tensors = {name: value.bfloat16() for name, value in moved.items()}
        config = {"model_type": "llama", "num_hidden_layers": LAYERS, "tie_word_embeddings": False}
        write_checkpoint(TensorWeights(tensors, model, config=config), folder / model)
    return sum(value.numel() for value in base.values()) / 1e9


def run() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = make_models(folder)
        commands = {"raw read of four files, write of one": [sys.executable, "-c", FLOOR, place, f"{place}/floor"]}
        for name, parameters in METHODS.items():
            method = name.split(",")[0]
            recipe = folder / f"{name}.yaml"
            base = "" if method == "linear" else "base: base\n"
            recipe.write_text(f"genepool: 1\nmethod: {method}\n{base}models: [a, b, c]\nparameters: {parameters}\n")
            out = str(folder / "out")
            commands[name] = [sys.executable, "-m", "genepool", "merge", str(recipe), out, "--overwrite", "--quiet"]
        figures = time_in_turn(commands)
        floor = next(iter(figures.values()))
        rows = [
            [name, f"{f.wall:.1f}", f"{f.cpu:.1f}", f"{f.anonymous:.2f}", f"{f.wall / floor.wall:.1f}"]
            for name, f in figures.items()
        ]
        note = (
            f"{size:.2f}B parameters, bf16, one base and three fine-tunes ({8 * size:.1f} GB in, {2 * size:.1f} GB "
            "out; linear reads no base), whole processes with start-up, files in the page cache, medians of three runs "
            "in turn. The last column divides by the first row."
        )
        return table("Merging", note, ("command", "wall s", "CPU s", "anonymous GB", "ratio to the floor"), rows)
