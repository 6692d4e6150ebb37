"""The fuzzer: a file of a kind put wrong by a seed, a command on it, and what must hold of the end.

`python -m tests.hostile.fuzzing [--kind NAME ...] [--seeds FROM:TO] [--headers FROM:TO] [--record FILE]` tells what
fails, and keeps nothing but a line of the record for each file. `--table FILE ...` counts records, and writes them into
docs/security.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from tests.hardening.forked_commands import Forks
from tests.hostile.hostile_files import KINDS
from tests.hostile.kinds import Kind, World, words
from tests.hostile.mutations import mutated

#: Seconds of the processor that a command may take, and megabytes beyond those that it takes for the good file.
SECONDS, MEGABYTES = 10, 64
#: A line that nobody would read to its end.
_LONGEST = 2_000
#: What a command may leave although it was refused: outcomes that were finished before.
LEDGERS = ("own.sqlite", "ledger")


@dataclass(frozen=True)
class Case:
    """One run: a kind of file, the seed of what is wrong with it, and a command that reads it."""

    kind: Kind
    seed: int

    @property
    def typed(self) -> str:
        """The command line."""
        return self.kind.typed[self.seed % len(self.kind.typed)]


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        code: its exit code, negative for a signal.
        errors: what it wrote on stderr.
        megabytes: how far it grew; None when it was ended.
        seconds: what it took of the processor; None when it was ended.
        left: what stands in its folder that did not before.
    """

    code: int
    errors: str
    megabytes: float | None = None
    seconds: float | None = None
    left: tuple[str, ...] = ()

    def wrong(self, size: int, usual: float) -> str:
        """What must not be, of a command on a hostile file; empty when all is well.

        Args:
            size: bytes of the file.
            usual: megabytes by which the same command grows on the good file.
        """
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        if self.code < 0:
            return f"ended by signal {-self.code}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if "Traceback" in self.errors:
            return "a traceback"
        if self.code == 2 and len(lines) != 1:
            return f"{len(lines)} lines of error"
        if lines and len(lines[-1]) > _LONGEST:
            return f"a line of {len(lines[-1])} characters"
        if self.code == 2 and self.left:
            return f"refused, and left {', '.join(self.left)}"
        if self.megabytes is not None and self.megabytes > usual + MEGABYTES + 2 * size / 2**20:
            return f"{self.megabytes} MB"
        return ""


@dataclass(frozen=True)
class Tried:
    """One line of the record.

    Attributes:
        kind, seed: of the case.
        code: the exit code.
        seconds: of the processor; None when it was ended.
        megabytes: how far the process grew; None when it was ended.
        usual: how far it grows on the good file.
        wrong: what must not be; empty when all is well.
    """

    kind: str
    seed: int
    code: int
    seconds: float | None
    megabytes: float | None
    usual: float
    wrong: str = ""


class Fuzzer:
    """Runs cases.

    Args:
        forks: what runs the commands.
        folder: where the world and the cases lie.
    """

    def __init__(self, forks: Forks, folder: Path) -> None:
        self._forks, self._folder = forks, folder
        self._env = {"GENEPOOL_CACHE": str(folder / "cache"), "GENEPOOL_LEDGER": "ledger-of-nobody.sqlite"}
        self._growth: dict[str, float] = {}
        self.world = World(folder / "world", self._made)

    def prepared(self, kind: Kind) -> Path:
        """An empty folder with copies of what the kind's commands need."""
        case = self._folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        for name in kind.copied():
            part = self.world.part(name)
            (shutil.copytree if part.is_dir() else shutil.copy)(part, case / name)
        return case

    def end_of(self, typed: str, case: Path) -> End:
        """Runs a command line on what lies in a case's folder."""
        errors = self._folder / "errors"
        told = [Path(f"{errors}.{what}") for what in ("megabytes", "seconds")]
        for file in told:
            file.unlink(missing_ok=True)
        before = names(case)
        try:
            code = self._forks.start(words(typed, self.world.folder), case, self._env, errors, cpu=SECONDS).wait()
        except AssertionError as error:
            return End(-1, str(error))
        grown, took = (float(file.read_text()) if file.is_file() else None for file in told)
        left = sorted(names(case) - before)
        said = errors.read_text(errors="replace")
        return End(code, said, grown, took, tuple(name for name in left if not name.startswith(LEDGERS)))

    def run(self, case: Case) -> Tried:
        """How a case ended."""
        usual = self._usual(case)
        folder = self.prepared(case.kind)
        file = case.kind.path(folder)
        mutated(file, case.kind.form, case.seed)
        if case.kind.seal is not None:
            case.kind.seal(folder)
        size = file.stat().st_size
        end = self.end_of(case.typed, folder)
        wrong = end.wrong(size, usual)
        told = f"{wrong}\n{end.errors[-1500:]}" if wrong else ""
        return Tried(case.kind.name, case.seed, end.code, end.seconds, end.megabytes, usual, told)

    def _usual(self, case: Case) -> float:
        if case.typed not in self._growth:
            # What it imports while it runs is there from now on.
            self.end_of(case.typed, self.prepared(case.kind))
            self._forks.ask(do="import", modules=Path(f"{self._folder / 'errors'}.modules").read_text().split())
            end = self.end_of(case.typed, self.prepared(case.kind))
            assert end.code == 2 if case.kind.refused else end.code in (0, 1), f"{case.typed}: {end.errors}"
            self._growth[case.typed] = end.megabytes or 0.0
        return self._growth[case.typed]

    def _made(self, line: str) -> None:
        errors = self._folder / "errors"
        code = self._forks.start(words(line, self.world.folder), self.world.folder, self._env, errors).wait()
        assert code == 0, f"{line}: {errors.read_text()}"


def names(folder: Path) -> set[str]:
    """What stands in a folder."""
    return {path.name for path in folder.iterdir()}


def tried_headers(seeds: range, folder: Path) -> Iterator[Tried]:
    """Headers of a file of weights put wrong, each read by the reader alone, without a command around it.

    Args:
        seeds: one for each.
        folder: where the file lies.

    Yields:
        One line for every seed; an `InputError` counts as exit code 2.
    """
    from genepool.errors import InputError
    from genepool.weights.formats.safetensors import SafetensorsFile

    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "a.weight": entry, "b": {**entry, "data_offsets": [24, 48]}})
    good = struct.pack("<Q", len(header)) + header.encode() + bytes(48)
    file = folder / "model.safetensors"
    for seed in seeds:
        file.write_bytes(good)
        mutated(file, "safetensors", seed)
        forget_peak()
        code, wrong, idle, began = 0, "", peak_megabytes(), time.process_time()
        try:
            SafetensorsFile(file)
        except InputError as error:
            code, wrong = 2, "" if str(file) in str(error) else f"an error that names no file: {error}"
        except Exception as error:
            code, wrong = 3, f"{type(error).__name__}: {error}"
        took = time.process_time() - began
        yield Tried("header", seed, code, round(took, 4), round(peak_megabytes() - idle, 1), 0.0, wrong)


def forget_peak() -> None:
    """The most memory of this process is from now on what it holds now, where the system can be told so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The most memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """See the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs="*", default=[kind.name for kind in KINDS], help="which kinds of file")
    parser.add_argument("--seeds", default="0:20", type=_range, help="FROM:TO")
    parser.add_argument("--headers", type=_range, help="FROM:TO, of safetensors headers, in place of commands")
    parser.add_argument("--record", type=Path, help="add a line for every file to this one")
    parser.add_argument("--table", nargs="+", type=Path, help="write these records into docs/security.md")
    asked = parser.parse_args()
    if asked.table:
        from tests.hostile.tried_files import write_table

        write_table(asked.table)
        return
    failed, count = 0, 0
    record = asked.record.open("a", buffering=1) if asked.record else None
    with tempfile.TemporaryDirectory() as folder:
        found = tried_headers(asked.headers, Path(folder)) if asked.headers else _tried(asked, Path(folder))
        for one in found:
            count += 1
            failed += bool(one.wrong)
            _tell(one, record)
    print(f"{failed} of {count} failed")
    sys.exit(bool(failed))


def _range(text: str) -> range:
    first, last = text.split(":")
    return range(int(first), int(last))


def _tried(asked: argparse.Namespace, folder: Path) -> Iterator[Tried]:
    """Seed by seed, so that a run that is ended early has tried every kind alike."""
    kinds = [kind for kind in KINDS if kind.name in asked.kind]
    with Forks() as forks:
        fuzzer = Fuzzer(forks, folder)
        for seed in asked.seeds:
            for kind in kinds:
                yield fuzzer.run(Case(kind, seed))


def _tell(one: Tried, record: TextIO | None) -> None:
    if one.wrong:
        typed = next((Case(kind, one.seed).typed for kind in KINDS if kind.name == one.kind), "read")
        print(f"--- {one.kind}, seed {one.seed}: {typed}\n{one.wrong}", flush=True)
    if record:
        record.write(json.dumps(asdict(one)) + "\n")


if __name__ == "__main__":
    main()
