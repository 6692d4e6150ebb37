"""A layer-wise fit of eight fine-tunes of a model of 1.2 billion entries, by the command that a user types.

`python -m benchmarks.composition.large [--folder DIR] [--layers N] [--skills K] [--steps N]` writes a random model of
Llama 3.2 1B's shape in bfloat16 and fine-tunes of it (22 GB) to a temporary folder, asks `genepool plan` what a fit
takes, runs `genepool compose`, and removes all of it. Random weights take the memory and the time of trained ones. A
step is asked two labelled examples of each of two tasks. The rule: planned within 24 GB, and within what was planned,
with the activations and the program on top.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import ROOT, table, tell

if TYPE_CHECKING:
    import torch

SHAPE: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip
LIMIT_GB = 24.0
_TASKS = 2
GENEPOOL = [sys.executable, "-m", "genepool"]


def run(folder: Path | None = None, *, layers: int = 16, skills: int = 8, steps: int = 5) -> str:
    """The table.

    Args:
        folder: where the models are written, and removed again; the system's folder for temporary files when None.
        layers: of the model.
        skills: how many fine-tunes there are.
        steps: of the fit.

    Raises:
        SystemExit: the disk has no room, or a command failed.
    """
    shape = {**SHAPE, "num_hidden_layers": layers}
    size = sum(2 * count for count in _counts(shape).values())
    with tempfile.TemporaryDirectory(dir=folder) as name:
        world = Path(name)
        if shutil.disk_usage(world).free < (skills + 3) * size:
            sys.exit(f"error: {world}: {(skills + 3) * size / 1e9:.0f} GB are needed. Name another --folder.")
        write(world, shape, skills, steps)
        plan = json.loads(subprocess.run([*GENEPOOL, "plan", world / "fit.yaml", "--json"], **_ASKED).stdout)
        tell(f"planned: {plan['total_bytes'] / 1e9:.1f} GB, {plan['way']}, on the disk: {len(plan['streamed'])}")
        seen = follow([*GENEPOOL, "compose", str(world / "fit.yaml"), "--out", str(world / "out")], world / ".out.fit")
    each = 1 / steps
    planned = plan["total_bytes"] / 1e9
    rows = [
        ["planned beside the activations, GB", f"{planned:.1f} ({'fits' if planned <= LIMIT_GB else 'FAILS'})"],
        ["skills held, read from the disk", f"{skills - len(plan['streamed'])}, {len(plan['streamed'])}"],
        ["peak anonymous, resident, GB", f"{seen.anonymous:.1f}, {seen.resident:.1f}"],
        ["CPU s, wall s a step", f"{each * seen.fit_cpu:.0f}, {each * seen.fit_wall:.0f}"],
        ["CPU s, wall s of the command", f"{seen.cpu:.0f}, {seen.wall:.0f}"],
    ]
    note = (
        f"{size / 2e9:.2f} billion entries in bfloat16, computed in float32; {skills} full fine-tunes; {steps} steps "
        f"on {_TASKS} tasks of 2 examples. Pages of files that are mapped count as resident, not as anonymous."
    )
    return table("A layer-wise fit of a large model", note, ("what", "found"), rows)


_ASKED: dict[str, Any] = {"cwd": ROOT, "check": True, "text": True, "stdout": subprocess.PIPE}


def _shapes(shape: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama with a tied head, by name."""
    hidden, inner, width = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = width * shape["num_attention_heads"], width * shape["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], hidden)}
    for layer in range(shape["num_hidden_layers"]):
        own = {
            "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }  # fmt: skip
        found |= {f"model.layers.{layer}.{name}.weight": size for name, size in own.items()}
    return found | {"model.norm.weight": (hidden,)}


def _counts(shape: Mapping[str, Any]) -> dict[str, int]:
    return {name: size[0] * (size[1] if len(size) > 1 else 1) for name, size in _shapes(shape).items()}


def write(world: Path, shape: Mapping[str, Any], skills: int, steps: int) -> None:
    """base/, full/N, tasks/N and fit.yaml."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from genepool.testbed.tokenizer import fast_tokenizer

    # One drawn row of numbers stands for all: what a fit costs does not depend on them.
    drawn = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))

    def filled(name: str, size: tuple[int, ...], shift: int) -> torch.Tensor:
        count = _counts(shape)[name]
        return drawn.roll(shift).repeat(-(-count // len(drawn)))[:count].view(size)

    for number in range(-1, skills):
        folder = world / "base" if number < 0 else world / "full" / str(number)
        folder.mkdir(parents=True)
        tensors = {}
        for place, (name, size) in enumerate(_shapes(shape).items()):
            value = torch.ones(size) if len(size) == 1 else 0.02 * filled(name, size, place)
            if number >= 0:
                value = value + 0.004 * filled(name, size, 1000 * (number + 1) + place)
            tensors[name] = value.to(torch.bfloat16)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = LlamaConfig(**shape, architectures=["LlamaForCausalLM"], dtype="bfloat16", pad_token_id=0)
        config.save_pretrained(folder)
        fast_tokenizer(shape["max_position_embeddings"]).save_pretrained(folder)
    for number in range(_TASKS):
        folder = world / "tasks" / str(number)
        folder.mkdir(parents=True)
        lines = [{"id": str(at), "prompt": f"{number}{at}abcd=", "answer": "dcba"} for at in range(2)]
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = {
        "compose": 1, "method": "adamerging", "base": "base", "skills": [f"full/{n}" for n in range(skills)],
        "tasks": "tasks", "options": {"objective": "likelihood", "steps": steps, "every": steps},
    }  # fmt: skip
    (world / "fit.yaml").write_text(json.dumps(said))


@dataclass(frozen=True)
class Seen:
    """What a command used: seconds, and peaks in GB; of the steps, from the first look at the inputs to the last."""

    wall: float
    cpu: float
    fit_wall: float
    fit_cpu: float
    resident: float
    anonymous: float


def follow(command: list[str], work: Path) -> Seen:
    """Runs a command that fits in `work`, and follows it: a fit keeps its state there before and after its steps.

    Raises:
        SystemExit: it failed.
    """
    began, kept = time.perf_counter(), work / "fit.safetensors"
    process = subprocess.Popen(command, cwd=ROOT)
    looks: dict[int, tuple[float, float]] = {}
    resident = anonymous = 0
    cpu = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            fields = dict(line.split(":", 1) for line in status.splitlines())
            resident = max(resident, int(fields["VmHWM"].split()[0]))
            anonymous = max(anonymous, int(fields["RssAnon"].split()[0]))
            cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            looks.setdefault(kept.stat().st_mtime_ns, (time.perf_counter() - began, cpu))
        except (OSError, KeyError):
            pass  # it has just ended, or no look was taken yet
        time.sleep(0.02)
    if process.returncode or len(looks) < 2:
        sys.exit(f"error: {' '.join(command)}: exit status {process.returncode}, {len(looks)} looks were seen.")
    first, last = looks[min(looks)], looks[max(looks)]
    wall = time.perf_counter() - began
    gb = 1024 / 1e9
    return Seen(wall, cpu, last[0] - first[0], last[1] - first[1], gb * resident, gb * anonymous)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="write the models below this folder")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--skills", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    print(run(asked.folder, layers=asked.layers, skills=asked.skills, steps=asked.steps))
