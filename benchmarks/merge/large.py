"""Merges of the size that people have: a base and three fine-tunes of a 3B's shapes, sharded, and a kill in between.

`python -m benchmarks.merge.large [--billions 3|7] [--folder DIR]` writes random checkpoints in bfloat16 (26 GB; 54 GB
for a 7B), merges them by the commands that a user types, kills each merge with SIGKILL when half of its tensors are
there, types the command again, and removes everything. The rules, written before the first figure: a weighted sum takes
at most 1.5 floors and TIES at most 4, neither more than 1 GB of anonymous memory, and a merge that was killed ends with
the same bytes.

The models do not fit into the page cache beside each other, so whatever reads them twice reads the disk twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import ROOT, Figures, measure, table, tell
from genepool.errors import InputError

GENEPOOL = [sys.executable, "-m", "genepool"]
EXPERTS = 3
#: Bytes of a shard: a model has several, and no tensor is larger.
SHARD_BYTES = 2_000_000_000
MEMORY_GB = 1.0
AIMS = {"linear": 1.5, "ties": 4.0}
_RECIPES = {"linear": "method: linear\n", "ties": "method: ties\nbase: {base}\n"}
# Elements of the drawn rows that all tensors are filled from: what a merge costs does not depend on their order.
_DRAWN = 1 << 24
_SPREAD, _STEP = 0.02, 0.001


@dataclass(frozen=True)
class Shape:
    """The shape of a model, under the names of its config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tied: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by name."""
        hidden, inner = self.hidden_size, self.intermediate_size
        keys = hidden // self.num_attention_heads * self.num_key_value_heads
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_hidden_layers):
            own: dict[str, tuple[int, ...]] = {
                "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
                "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            }  # fmt: skip
            found |= {f"model.layers.{layer}.{name}.weight": size for name, size in own.items()}
        found["model.norm.weight"] = (hidden,)
        return found if self.tied else {**found, "lm_head.weight": (self.vocab_size, hidden)}

    @property
    def size(self) -> int:
        """Bytes of a model in bfloat16."""
        return 2 * sum(math.prod(shape) for shape in self.tensors().values())

    def shards(self) -> list[list[str]]:
        """The tensors of each shard."""
        shards: list[list[str]] = [[]]
        held = 0
        for name, shape in self.tensors().items():
            size = 2 * math.prod(shape)
            if shards[-1] and held + size > SHARD_BYTES:
                shards.append([])
                held = 0
            shards[-1].append(name)
            held += size
        return shards

    def config(self) -> dict[str, object]:
        """What config.json says."""
        numbers = {name: value for name, value in vars(self).items() if name != "tied"}
        return {
            **numbers, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16",
        }  # fmt: skip


#: Llama 3.2 3B and Llama 2 7B.
SHAPES = {3: Shape(3072, 8192, 28, 24, 8, 128256, True), 7: Shape(4096, 11008, 32, 32, 32, 32000, False)}


def run(shape: Shape = SHAPES[3], folder: Path | None = None) -> str:
    """The table.

    Args:
        shape: of the models.
        folder: where they are written, and removed again; the system's folder for temporary files when None.

    Raises:
        InputError: the disk has no room.
        CommandFailed: a measured command failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        world = Path(name)
        needed, free = (EXPERTS + 1 + 1.5) * shape.size, shutil.disk_usage(world).free
        if needed > free:
            raise InputError(
                f"{needed / 1e9:.0f} GB are needed and {free / 1e9:.0f} GB are free",
                where=world,
                fix="Name another --folder",
            )
        _warm_up(world / "small")
        files = write(world, shape)
        tell(f"made {EXPERTS + 1} models of {shape.size / 1e9:.1f} GB, {len(shape.shards())} files each")
        rows = []
        for method, aim in AIMS.items():
            recipe, out = world / f"{method}.yaml", world / "out"
            # The files that the method reads, the model whose size is written first.
            read = files if "{base}" in _RECIPES[method] else files[len(shape.shards()) :]
            floor = _floor(world, read, len(shape.shards()))
            whole = measure(merge := [*GENEPOOL, "merge", str(recipe), str(out), "--threads", "2", "--quiet"])
            expected = digests(out)
            shutil.rmtree(out)
            tell(f"{method}: {whole.wall:.0f} s, floor {floor.wall:.0f} s; killing it at half")
            _kill(merge, out, len(shape.tensors()))
            resumed = measure(merge)
            same = digests(out) == expected
            shutil.rmtree(out)
            rows.append(_row(method, aim, floor, whole, resumed, same))
            tell(" | ".join(rows[-1]))
    note = (
        f"{shape.size / 2e9:.2f} billion entries in bfloat16, {len(shape.shards())} files a model, "
        f"{EXPERTS} fine-tunes and a base, two threads, one run each. The floor reads the files that the merge reads, "
        "writes one model and forces it to the disk, as a merge does. Killed when half of the tensors are there."
    )
    return table("Merging at the size that people have", note, _HEADER, rows)


_HEADER = (
    "merge", "floor, wall s", "CPU s", "merge, wall s", "CPU s", "in floors (wall)", "aim", "anonymous GB",
    "after the kill, wall s", "same bytes",
)  # fmt: skip


def _row(method: str, aim: float, floor: Figures, whole: Figures, resumed: Figures, same: bool) -> list[str]:
    ratio = whole.wall / floor.wall
    memory = max(whole.anonymous, resumed.anonymous)
    return [
        method,
        f"{floor.wall:.0f}",
        f"{floor.cpu:.0f}",
        f"{whole.wall:.0f}",
        f"{whole.cpu:.0f}",
        f"{ratio:.1f}" + ("" if ratio <= aim else " (FAILS)"),
        f"{aim:g}",
        f"{memory:.2f}" + ("" if memory <= MEMORY_GB else " (FAILS)"),
        f"{resumed.wall:.0f}",
        "yes" if same else "NO (FAILS)",
    ]


def _warm_up(world: Path) -> None:
    """Has both methods compiled and their modules read: the first merge on a machine does that, not the others."""
    world.mkdir()
    write(world, Shape(64, 64, 2, 4, 2, 512, True))
    for method in AIMS:
        measure([*GENEPOOL, "merge", str(world / f"{method}.yaml"), str(world / method), "--threads", "2", "--quiet"])


def write(world: Path, shape: Shape) -> list[Path]:
    """base/, 1/, 2/ ... and a recipe for each method; the weight files, those of the base first."""
    import torch

    names = ["base", *map(str, range(1, EXPERTS + 1))]
    drawn = [torch.randn(_DRAWN, generator=torch.Generator().manual_seed(seed)) for seed in range(EXPERTS + 1)]
    files = []
    for number, name in enumerate(names):
        values = _SPREAD * drawn[0] + (_STEP * drawn[number] if number else 0.0)
        files += _write_model(world / name, shape, values.bfloat16().view(torch.uint8).numpy().tobytes())
    models = "".join(f"  - model: {world / name}\n" for name in names[1:])
    for method, head in _RECIPES.items():
        text = f"genepool: 1\n{head.format(base=world / 'base')}models:\n{models}"
        (world / f"{method}.yaml").write_text(text)
    return files


def _write_model(folder: Path, shape: Shape, drawn: bytes) -> list[Path]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.config()))
    shards, tensors = shape.shards(), shape.tensors()
    files, index = [], {}
    for number, names in enumerate(shards, start=1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        entries, offset = {}, 0
        for name in names:
            end = offset + 2 * math.prod(tensors[name])
            entries[name] = {"dtype": "BF16", "shape": tensors[name], "data_offsets": [offset, end]}
            index[name], offset = file.name, end
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        with open(file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                _fill(out.write, drawn, 2 * math.prod(tensors[name]), seed=len(name) + tensors[name][0])
        files.append(file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return files


def _fill(write: Callable[[memoryview], object], drawn: bytes, count: int, seed: int) -> None:
    """Writes `count` bytes of the drawn ones, from a place that the seed says, again from the beginning at the end."""
    at, view = 2 * (seed * 7919 % (len(drawn) // 2)), memoryview(drawn)
    while count:
        part = view[at : at + count]
        write(part)
        at, count = (at + len(part)) % len(drawn), count - len(part)


def _floor(world: Path, files: Sequence[Path], shards: int) -> Figures:
    """Reads the files and writes as many of them as make a model."""
    out = world / "floor"
    flags = ["--sync", "--written", str(shards)]
    found = measure([sys.executable, "-m", "benchmarks.merge.floor", *flags, str(out), *map(str, files)])
    out.unlink()
    return found


def _kill(command: Sequence[str], out: Path, tensors: int) -> None:
    """Starts a merge and kills it when half of the tensors are there."""
    journal = out.with_name(f".{out.name}.partial") / "journal.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if journal.is_file() and journal.read_text().count('"tensor"') >= tensors / 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    if process.wait() != -signal.SIGKILL or out.exists() or not journal.is_file():
        raise InputError("the merge ended before it was killed", where=out, fix="Run the benchmark again")


def digests(folder: Path) -> Mapping[str, str]:
    """SHA-256 of every file of a folder, by name."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(file, "rb") as opened:
            found[str(file.relative_to(folder))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.merge.large", description=__doc__)
    parser.add_argument("--billions", type=int, choices=sorted(SHAPES), default=3, help="size of the models (3)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where models are written and removed again")
    options = parser.parse_args(arguments)
    try:
        print(run(SHAPES[options.billions], options.folder), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
