"""What a training of factors holds in memory, against what its plan said: a Llama of 1.24 billion random entries.

The model has the shape of Llama 3.2 1B with a tokenizer of a few characters, is written to a temporary folder (2.5 GB)
and removed with it. Each row is a process of its own: `genepool plan` first, then five steps.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import measure, table

GENEPOOL = [sys.executable, "-m", "genepool"]
SHAPE = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 4096,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# What of a training file a row changes.
ROWS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, activations computed again": {"activation_checkpoints": True},
}


def run() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder / "base")
        write_task(folder / "copy")
        rows = [_row(folder, said, changes) for said, changes in ROWS.items()]
    titles = ("LoRA, rank 16", "planned GB", "peak GB", "planned / peak", "resident GB", "wall s")
    return table(
        "Training memory",
        "A Llama-shaped model of 1.24 G entries, five steps of 4 examples of 129 tokens. Peaks are of the whole "
        "command, which also asks base and result: anonymous memory, and resident memory, which counts pages of the "
        "base's file.",
        titles,
        rows,
    )


def _row(folder: Path, said: str, changes: dict[str, Any]) -> list[str]:
    file, out = folder / "training.yaml", folder / "run"
    settings = {
        "train": 1, "base": str(folder / "base"), "tasks": [str(folder / "copy")], "lora": {"rank": 16}, "steps": 5,
        "batch": 4, "every": 5, "valid": 4, "test": 4, **changes,
    }  # fmt: skip
    file.write_text(json.dumps(settings))
    plan = json.loads(subprocess.run([*GENEPOOL, "plan", file, "--json"], check=True, capture_output=True).stdout)
    seen = measure([*GENEPOOL, "train", str(file), "--out", str(out), "--overwrite", "-q"])
    planned = plan["total"] / 1e9
    return [
        said, f"{planned:.1f}", f"{seen.anonymous:.1f}", f"{planned / seen.anonymous:.2f}", f"{seen.resident:.1f}",
        f"{seen.wall:.0f}",
    ]  # fmt: skip


def write_base(folder: Path) -> None:
    """A model folder with random weights in bfloat16, drawn tensor by tensor."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(**SHAPE, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).named_parameters()}
    torch.manual_seed(0)
    save_file(
        {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
            for name, shape in shapes.items()
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = {text: number for number, text in enumerate([*special.values(), *LETTERS, "="])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def write_task(folder: Path) -> None:
    """A task of 64 letters to copy: 129 characters, as many tokens."""
    drawn = random.Random(0)
    folder.mkdir()
    for split, count in {"train": 20, "valid": 4, "test": 4}.items():
        texts = ["".join(drawn.choices(LETTERS, k=64)) for _ in range(count)]
        lines = [
            json.dumps({"id": f"{split}{n}", "prompt": f"{text}=", "answer": text}) for n, text in enumerate(texts)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.yaml").write_text("max_new_tokens: 66\n")
