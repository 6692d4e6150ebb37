"""How fast skills are made and applied, against reading and writing the same files raw, and against mergekit.

`python -m benchmarks.skills.throughput [--size 1] [--rounds 3] [--mergekit PYTHON [--layers 3]]`: whole processes on
checkpoints of random weights (`benchmarks.merge.checkpoints`), one after the other. The floor of each row reads and
writes as many bytes as the row. With `--mergekit`, an interpreter of an environment with mergekit, adapters of two
checkpoints are extracted by both; the errors are measured here, in the same way, of what each wrote.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring import ROOT, Figures, measure, median, paired_ratio, table
from benchmarks.merge import checkpoints
from benchmarks.merge.side_by_side import machine

WORK = ROOT / ".cache" / "bench"
GENEPOOL = [sys.executable, "-m", "genepool"]
RANK = 16


@dataclass(frozen=True)
class Row:
    """One command and what it reads and writes.

    Attributes:
        name: in the table.
        command: arguments after `genepool`.
        reads: files read to their end.
        out: what it writes.
        narrow: the same on models of next to nothing: its start-up.
    """

    name: str
    command: Sequence[str]
    reads: Sequence[Path]
    out: Path
    narrow: Sequence[str]


def rows(models: Path, narrow: Path, out: Path) -> list[Row]:
    """What is timed, in an order in which each finds what it reads."""
    base, tuned = models / "base", models / "expert1"
    files = [folder / "model.safetensors" for folder in (base, tuned)]

    def made(name: str, command: Sequence[str], reads: Sequence[Path], result: str) -> Row:
        small = [text.replace(str(models), str(narrow)).replace(str(out), str(out / "narrow")) for text in command]
        return Row(name, command, reads, out / result, small)

    def extract(result: str, *form: str) -> list[str]:
        return ["skill", "extract", str(tuned), "--base", str(base), *form, "--out", str(out / result)]

    def apply(skill: str) -> list[str]:
        return ["skill", "apply", str(out / skill), "--base", str(base), "--out", str(out / "model")]

    budget = files[0].stat().st_size // 16
    dense, packed = out / "dense.safetensors", out / "packed.safetensors"
    return [
        made("extract, dense bfloat16", extract(dense.name, "--to", "dense", "--dtype", "bfloat16"), files, dense.name),
        made("extract, 4 bits", extract(packed.name, "--to", "packed"), files, packed.name),
        made(
            "convert, dense to signs",
            [
                "skill",
                "convert",
                str(dense),
                "--to",
                "packed",
                "--packing",
                "signs",
                "--out",
                str(out / "s.safetensors"),
            ],
            [dense],
            "s.safetensors",
        ),
        made(
            "compress to 1/16",
            ["skill", "compress", str(dense), "--size", f"{budget}B", "--out", str(out / "c.safetensors")],
            [dense],
            "c.safetensors",
        ),
        made("apply, dense bfloat16", apply(dense.name), [files[0], dense], "model"),
        made("apply, 4 bits", apply(packed.name), [files[0], packed], "model"),
    ]


def throughput(size: float, rounds: int, only: str = "") -> str:
    """The table of what is made and applied."""
    folder = checkpoints.make(WORK / f"llama-{size:g}B", checkpoints.layout_of(size), 1)
    narrow = checkpoints.make_narrow(WORK, size, 1)
    out = WORK / "skills"
    shutil.rmtree(out, ignore_errors=True)
    (out / "narrow").mkdir(parents=True)
    lines = []
    first, *others = rows(folder, narrow, out)
    for row in [first, *(row for row in others if only in row.name)]:
        runs: dict[str, list[Figures]] = {"floor": [], "start": [], "row": []}
        measure([*GENEPOOL, *row.command, "--quiet", "--overwrite"])
        measure([*GENEPOOL, *row.narrow, "--quiet", "--overwrite"])
        read = sum(path.stat().st_size for path in row.reads)
        wrote = _size(row.out)
        for _ in range(rounds):
            runs["floor"].append(measure([sys.executable, "-m", "benchmarks.skills.floor", str(out / "raw"), str(wrote),
                                          *map(str, row.reads)]))  # fmt: skip
            runs["start"].append(measure([*GENEPOOL, *row.narrow, "--quiet", "--overwrite"]))
            runs["row"].append(measure([*GENEPOOL, *row.command, "--quiet", "--overwrite"]))
        ours = median(runs["row"])
        lines.append(
            [
                row.name,
                f"{ours.wall:.1f}",
                f"{ours.cpu:.1f}",
                f"{ours.anonymous:.2f}",
                f"{median(runs['start']).wall:.1f}",
                f"{(read + wrote) / 1e9 / ours.wall:.2f}",
                f"{paired_ratio(runs['row'], runs['floor']):.1f}",
                f"{paired_ratio(runs['row'], runs['floor'], runs['start']):.1f}",
            ]
        )
        print(lines[-1], file=sys.stderr, flush=True)
    shutil.rmtree(out)
    header = ("row", "wall s", "CPU s", "anonymous GB", "start-up s", "GB/s", "of the floor", "beyond start-up")
    note = f"{machine()}. bfloat16 checkpoints, files in the page cache, medians of {rounds} rounds."
    return table(f"Skills, {size:g}B parameters", note, header, lines)


def extraction(size: float, rounds: int, python: Path, layers: int | None) -> str:
    """The table of adapters extracted by genepool and by mergekit."""
    layout, name = checkpoints.layout_of(size), f"llama-{size:g}B"
    if layers is not None:
        layout, name = replace(layout, layers=layers), f"{name}-{layers}-layers"
    folder = checkpoints.make(WORK / name, layout, 1)
    base, tuned = folder / "base", folder / "expert1"
    out = WORK / "skills"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ours, theirs = out / "ours.safetensors", out / "theirs"
    commands = {
        "genepool skill extract": [
            *GENEPOOL, "skill", "extract", str(tuned), "--base", str(base), "--rank", str(RANK), "--dtype", "float32",
            "--out", str(ours), "--quiet", "--overwrite",
        ],
        "mergekit-extract-lora": [
            str(python.parent / "mergekit-extract-lora"), "--model", str(tuned), "--base-model", str(base),
            "--out-path", str(theirs), "--max-rank", str(RANK), "--embed-lora", "--quiet",
        ],
    }  # fmt: skip
    os.environ["HF_HUB_OFFLINE"] = "1"
    runs: dict[str, list[Figures]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(theirs, ignore_errors=True)
            runs[name].append(measure(command))
    lines = []
    for name, path in zip(commands, (ours, theirs), strict=True):
        figures = median(runs[name])
        error, held = _error(base, tuned, path)
        lines.append(
            [name, f"{figures.wall:.1f}", f"{figures.cpu:.1f}", f"{figures.anonymous:.2f}", f"{error:.4f}", str(held)]
        )
    ratio = paired_ratio(runs["mergekit-extract-lora"], runs["genepool skill extract"])
    shutil.rmtree(out)
    header = ("command", "wall s", "CPU s", "anonymous GB", "error over the matrices", "matrices")
    note = f"{machine()}. Medians of {rounds} rounds; genepool is {ratio:.1f} times as fast."
    shapes = f"shapes of {size:g}B parameters, {layout.layers} layers"
    return table(f"Adapters of rank {RANK} from two checkpoints, {shapes}", note, header, lines)


def _error(base: Path, tuned: Path, skill: Path) -> tuple[float, int]:
    """Share of the change (Frobenius norm) that an adapter or skill loses, over the matrices that it changes."""
    code = (
        "import sys; from genepool.weights import open_weights; b = open_weights(sys.argv[1]);"
        "t, s = open_weights(sys.argv[2]), open_weights(sys.argv[3], base=b); size = lost = n = 0\n"
        "for name in b.names():\n"
        "    if len(b.info(name).shape) == 2 and s.moves(name, b):\n"
        "        d = t.delta(name, b); n += 1; size += float(d.square().sum())\n"
        "        lost += float((d - s.delta(name, b)).square().sum())\n"
        "print((lost / size) ** 0.5, n)"
    )
    command = [sys.executable, "-c", code, str(base), str(tuned), str(skill)]
    error, held = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(error), int(held)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills.throughput", description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="billions of parameters")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each that count")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="rows whose name has it, and the first, which they read"
    )
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="compare adapters with this one's instead")
    parser.add_argument("--layers", type=int, help="with --mergekit: only so many layers, which is quicker")
    asked = parser.parse_args()
    if asked.mergekit is None:
        print(throughput(asked.size, asked.rounds, asked.only))
    else:
        print(extraction(asked.size, asked.rounds, asked.mergekit, asked.layers))


if __name__ == "__main__":
    main()
