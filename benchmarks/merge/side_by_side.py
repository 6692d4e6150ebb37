"""Every row of one size: floor, start-up, genepool and mergekit in turn, and the table that says how they compare.

Ratios are taken within a round, between runs that are seconds apart, and the median over the rounds is shown.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import (
    ROOT,
    CommandFailed,
    Figures,
    median,
    memory_at_hand,
    paired_ratio,
    table,
    tell,
    time_in_turn,
)
from benchmarks.merge import checkpoints
from benchmarks.merge.rows import SVD_METHODS, Row, rows
from genepool.errors import InputError

GENEPOOL = (sys.executable, "-m", "genepool")
HEADER = (
    "command", "wall s", "CPU s", "peak RSS GB", "anonymous GB", "of the floor", "start-up s", "beyond it", "aim",
    "over mergekit",
)  # fmt: skip
EXPERTS = 3
FLOOR = "raw read of four files, write of one"


@dataclass(frozen=True)
class Settings:
    """What holds for a whole run of the benchmark.

    Attributes:
        work: the folder of checkpoints, recipes, outputs and raw figures.
        rounds: paired runs of each row.
        only: a regular expression that a row's name must match; None runs all that suit the size.
        peer: mergekit's command and version; None leaves it out.
        device: an accelerator each row is also computed on; None leaves it out.
    """

    work: Path
    rounds: int = 3
    only: str | None = None
    peer: tuple[Path, str] | None = None
    device: str | None = None

    @property
    def outputs(self) -> Path:
        """Where outputs are written and removed again."""
        return self.work / "out"

    def clear(self) -> None:
        """Removes all outputs, so that every run writes new files and none inherits another's unwritten pages."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir(parents=True)

    def clear_with_memory(self, byte_count: int) -> None:
        """`clear`, and as many bytes of memory at hand for the run that follows."""
        self.clear()
        memory_at_hand(self.outputs, byte_count)

    def floor(self, files: Sequence[Path], *flags: str) -> list[str]:
        """The command that reads `files` and writes the first."""
        module = "benchmarks.merge.floor"
        return [sys.executable, "-m", module, *flags, str(self.outputs / "floor"), *map(str, files)]

    def merge(self, recipe: Path, out: str = "genepool", device: str = "cpu") -> list[str]:
        """genepool's command."""
        return [*GENEPOOL, "merge", str(recipe), str(self.outputs / out), "--quiet", "--device", device]

    def keep(self, what: Mapping[str, object], runs: Mapping[str, Sequence[Figures]]) -> None:
        """Adds raw figures to `results.jsonl`: a benchmark that is stopped loses nothing it measured."""
        line = {
            **what,
            "machine": machine(),
            "runs": {name: [asdict(run) for run in seen] for name, seen in runs.items()},
        }
        with open(self.work / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Measured:
    """A row's runs by command (floor, start, genepool, device, mergekit, svds), and why commands are missing."""

    row: Row
    runs: dict[str, list[Figures]]
    failures: dict[str, str] = field(default_factory=dict)


def compare(billions: float, settings: Settings) -> tuple[str, bool]:
    """Runs all rows on checkpoints of one size.

    Returns:
        The table as Markdown, and whether every command worked.

    Raises:
        InputError: no row is wanted, or the disk has no room.
        CommandFailed: not even the floor works.
    """
    layout = checkpoints.layout_of(billions)
    folder = checkpoints.make(settings.work / f"llama-{billions:g}B", layout, EXPERTS)
    models = [folder / name for name in checkpoints.model_names(EXPERTS)]
    files = [checkpoints.weights_file(folder, name) for name in checkpoints.model_names(EXPERTS)]
    warning = cache_warning(5 * files[0].stat().st_size)
    if warning:
        tell(f"warning: {billions:g}B: {warning}")
    methods = known_methods()
    chosen = chosen_rows(rows(methods, models[0], models[1:]), billions, settings.only)
    if not chosen:
        raise InputError(f"no row matches '{settings.only}'", where="--only", fix="Leave it out to see their names")
    small = checkpoints.make_narrow(settings.work, billions, EXPERTS)
    narrow = [small / name for name in checkpoints.model_names(EXPERTS)]
    starts = {row.name: row.recipe for row in rows(methods, narrow[0], narrow[1:])}
    edges = _edges(files, settings)
    measured = []
    for number, row in enumerate(chosen):
        found = _time_row(row, starts[row.name], files, settings, folder)
        settings.keep({"billions": billions, "row": row.name}, found.runs)
        measured.append(found)
        tell(f"[{number + 1}/{len(chosen)}] {billions:g}B {row.name}: {_summary(found)}")
    floors = [run for one in measured for run in one.runs["floor"]]
    note = _note(layout, files, settings, warning) + floor_speed(floors, [file.stat().st_size for file in files])
    title = f"Merging, {layout.parameters / 1e9:.2f}B parameters"
    failures = [f"{one.row.name}, {name}: {why}" for one in measured for name, why in one.failures.items()]
    text = table(title, note, HEADER, table_rows(edges, measured))
    if failures:
        text += "\nNot measured:\n\n" + "".join(f"- {line}\n" for line in failures)
    return text, not failures


def run() -> str:
    """What `python -m benchmarks merging` prints: the smaller size, without mergekit."""
    return compare(0.25, Settings(ROOT / ".cache" / "bench"))[0]


def chosen_rows(every: Sequence[Row], billions: float, only: str | None) -> list[Row]:
    """Those whose name matches `only`, or without it those meant for models of this size."""
    if only is not None:
        return [row for row in every if re.search(only, row.name)]
    return [row for row in every if billions <= row.largest]


def known_methods() -> dict[str, list[str]]:
    """The methods genepool lists, with the names of their parameters."""
    answer = subprocess.run([*GENEPOOL, "methods", "--json"], capture_output=True, text=True, check=True, cwd=ROOT)
    methods = json.loads(answer.stdout)["methods"]
    return {method["name"]: [parameter["name"] for parameter in method["parameters"]] for method in methods}


def _edges(files: Sequence[Path], settings: Settings) -> dict[str, list[Figures]]:
    """What bounds every row and depends on none: the floor with the disk's part, and mergekit's own start-up."""
    commands = {f"{FLOOR}, forced to the disk": settings.floor(files, "--sync")}
    if settings.peer:
        python = settings.peer[0].with_name("python")
        commands["mergekit: its imports"] = [str(python), "-c", "import mergekit.scripts.run_yaml"]
    fresh = functools.partial(settings.clear_with_memory, _at_hand(files))
    return time_in_turn(commands, settings.rounds, between=fresh)


def _time_row(row: Row, start: str, files: Sequence[Path], settings: Settings, folder: Path) -> Measured:
    place = settings.work / "recipes" / folder.name
    place.mkdir(parents=True, exist_ok=True)
    recipe = place / (re.sub(r"\W+", "-", row.name) + ".yaml")
    recipe.write_text(row.recipe)
    start_recipe = recipe.with_suffix(".start.yaml")
    start_recipe.write_text(start)
    commands: dict[str, Sequence[str]] = {
        "floor": settings.floor(files),
        "start": settings.merge(start_recipe, "start"),
        "genepool": settings.merge(recipe),
    }
    if settings.device:
        commands["device start"] = settings.merge(start_recipe, "start", settings.device)
        commands["device"] = settings.merge(recipe, "device", settings.device)
    if row.method in SVD_METHODS:
        inputs = [str(file.parent) for file in files]
        commands["svds"] = [sys.executable, "-m", "benchmarks.merge.svds", row.method, *inputs]
    if settings.peer and row.peer:
        commands["mergekit"] = [str(settings.peer[0]), str(recipe), str(settings.outputs / "mergekit")]
    failures: dict[str, str] = {}
    fresh = functools.partial(settings.clear_with_memory, _at_hand(files))
    runs = time_in_turn(commands, settings.rounds, between=fresh, failures=failures)
    if "floor" in failures:
        raise CommandFailed(failures["floor"])
    return Measured(row, runs, failures)


def _at_hand(files: Sequence[Path]) -> int:
    """Bytes for the output and as much again for what the process itself asks for; at most a quarter of the free."""
    return min(2 * files[0].stat().st_size, available_memory() // 4)


def table_rows(edges: Mapping[str, Sequence[Figures]], measured: Sequence[Measured]) -> list[list[str]]:
    """The cells: the floors and start-ups of all rounds first, then genepool, and mergekit below it, row by row."""
    floors = [run for one in measured for run in one.runs["floor"]]
    lines = [_cells(FLOOR, floors)]
    lines += [_cells(name, runs) for name, runs in edges.items() if FLOOR in name]
    lines += [_cells(name, runs) for name, runs in edges.items() if FLOOR not in name]
    for one in measured:
        lines += _lines_of(one)
    return lines


def _lines_of(one: Measured) -> list[list[str]]:
    floor, ours, theirs = one.runs["floor"], one.runs.get("genepool"), one.runs.get("mergekit")
    lines = []
    if ours is not None:
        of_floor, beyond = paired_ratio(ours, floor), paired_ratio(ours, floor, one.runs["start"])
        start = f"{median(one.runs['start']).wall:.1f}"
        aim = f"{one.row.aim:g}" if one.row.aim is not None else ""
        over = f"{paired_ratio(theirs, ours):.1f}" if theirs is not None else ""
        ratios = {"of_floor": f"{of_floor:.1f}", "beyond": f"{beyond:.1f}"}
        lines.append(_cells(one.row.name, ours, **ratios, start=start, aim=aim, over=over))
        if there := one.runs.get("device"):
            start = f"{median(one.runs['device start']).wall:.1f}"
            beyond = f"{paired_ratio(there, floor, one.runs['device start']):.1f}"
            times = f"the same on the accelerator, {paired_ratio(ours, there):.1f} times as fast"
            of_floor = f"{paired_ratio(there, floor):.1f}"
            lines.append(_cells(times, there, of_floor=of_floor, start=start, beyond=beyond))
        if svds := one.runs.get("svds"):
            share = paired_ratio(ours, svds)
            lines.append(_cells(f"the SVDs of {one.row.name} alone; it takes {share:.1f} times as long", svds))
    if theirs is not None:
        ratio = f"{paired_ratio(theirs, floor):.1f}"
        lines.append(_cells(f"mergekit: {one.row.method}", theirs, of_floor=ratio))
    return lines


def _cells(
    name: str,
    runs: Sequence[Figures],
    *,
    of_floor: str = "",
    start: str = "",
    beyond: str = "",
    aim: str = "",
    over: str = "",
) -> list[str]:
    middle = median(runs)
    figures = [f"{middle.wall:.1f}", f"{middle.cpu:.1f}", f"{middle.resident:.2f}", f"{middle.anonymous:.2f}"]
    return [name, *figures, of_floor, start, beyond, aim, over]


def _summary(one: Measured) -> str:
    if "genepool" not in one.runs:
        return f"failed: {one.failures.get('genepool')}"
    middle, floor = median(one.runs["genepool"]), one.runs["floor"]
    text = f"{middle.wall:.1f} s, {paired_ratio(one.runs['genepool'], floor):.1f} times the floor"
    if "mergekit" in one.runs:
        text += f", {paired_ratio(one.runs['mergekit'], one.runs['genepool']):.1f} times as fast as mergekit"
    return text


def _note(layout: checkpoints.Layout, files: Sequence[Path], settings: Settings, warning: str) -> str:
    size = files[0].stat().st_size / 1e9
    return (
        f"{machine()}. Llama shapes ({layout.layers} layers of {layout.hidden}), bfloat16, one base and "
        f"{EXPERTS} fine-tunes: {len(files) * size:.1f} GB in, {size:.1f} GB out (linear averages all four, slerp and "
        f"nuslerp two). Whole processes, {warning or 'files in the page cache'}. Rounds that count: {settings.rounds}, "
        "after one to warm up (which counts as the first where a command takes over a minute); medians. In each, the "
        "floor, the start-up, `genepool merge` and mergekit run in turn, and ratios are taken within it. Start-up is "
        "the same merge of models as deep and 64 wide: imports, planning, publishing. Beyond it is (merge - start-up) "
        "/ floor, in wall seconds. genepool forces its output to the disk before it "
        "publishes it; the floor and mergekit do not. Before each run a file of twice the output's size is written and "
        "removed, so that no run pays for memory that the system had lent out. "
        + (f"Accelerator: {accelerator(settings.device)}. " if settings.device else "")
        + (f"mergekit {settings.peer[1]} reads the same recipe." if settings.peer else "mergekit was left out.")
    )


def floor_speed(floors: Sequence[Figures], sizes: Sequence[int]) -> str:
    """The floor's median as a sentence: seconds, and the GB/s at which it reads the files and writes the first."""
    wall = median(floors).wall
    return f" The floor takes {wall:.2f} s: {(sum(sizes) + sizes[0]) / 1e9 / wall:.1f} GB/s, read and written together."


def machine() -> str:
    """What the figures were taken on, for the note above them."""
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS")
    limited = f", OMP_NUM_THREADS={threads}" if threads else ""
    return f"{cores} cores{limited}, torch {version('torch')}, Python {platform.python_version()}"


def accelerator(device: str) -> str:
    """Its name, asked of another process: this one stays small."""
    code = f"import torch; print(torch.cuda.get_device_name({device!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def available_memory() -> int:
    """Bytes the system could give to the page cache and to processes."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def cache_warning(needed: int, available: int | None = None) -> str:
    """Empty when inputs and output fit in memory beside the processes; else the words that say they do not."""
    free = available_memory() if available is None else available
    # What the processes themselves may take; mergekit needs more, genepool less.
    if needed + 2e9 <= free:
        return ""
    return f"inputs and output ({needed / 1e9:.1f} GB) do not fit in the page cache: the figures include the disk"
