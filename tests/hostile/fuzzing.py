"""The fuzzer: a file of a kind put wrong by a seed, a command on it, and what must hold of the end.

`python -m tests.hostile.fuzzing [--kind NAME] [--seeds FROM:TO]` tells what fails, and keeps nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hardening.forked_commands import Forks
from tests.hostile.hostile_files import KINDS, Kind, World, words
from tests.hostile.mutations import mutated

#: Seconds of the processor that a command may take, and megabytes beyond those that it takes for the good file.
SECONDS, MEGABYTES = 10, 64
#: A line that nobody would read to its end.
_LONGEST = 2_000


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
    """

    code: int
    errors: str
    megabytes: float | None

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
        if self.megabytes is not None and self.megabytes > usual + MEGABYTES + 2 * size / 2**20:
            return f"{self.megabytes} MB"
        return ""


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
        grown = Path(f"{errors}.megabytes")
        grown.unlink(missing_ok=True)
        code = self._forks.start(words(typed, self.world.folder), case, self._env, errors, cpu=SECONDS).wait()
        said = errors.read_text(errors="replace")
        return End(code, said, float(grown.read_text()) if grown.is_file() else None)

    def run(self, case: Case) -> str:
        """What is wrong with the end of a case; empty when nothing is."""
        usual = self._usual(case)
        folder = self.prepared(case.kind)
        file = folder / case.kind.file
        mutated(file, case.kind.form, case.seed)
        end = self.end_of(case.typed, folder)
        wrong = end.wrong(file.stat().st_size, usual)
        return f"{wrong}\n{end.errors[-1500:]}" if wrong else ""

    def _usual(self, case: Case) -> float:
        if case.typed not in self._growth:
            end = self.end_of(case.typed, self.prepared(case.kind))
            assert end.code in (0, 1), f"{case.typed}: {end.errors}"
            self._growth[case.typed] = end.megabytes or 0.0
        return self._growth[case.typed]

    def _made(self, line: str) -> None:
        errors = self._folder / "errors"
        code = self._forks.start(words(line, self.world.folder), self.world.folder, self._env, errors).wait()
        assert code == 0, f"{line}: {errors.read_text()}"


def main() -> None:
    """See the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs="*", default=[kind.name for kind in KINDS], help="which kinds of file")
    parser.add_argument("--seeds", default="0:20", help="FROM:TO")
    asked = parser.parse_args()
    first, last = map(int, asked.seeds.split(":"))
    failed = 0
    with Forks() as forks, tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(forks, Path(folder))
        for case in _cases([kind for kind in KINDS if kind.name in asked.kind], range(first, last)):
            if wrong := fuzzer.run(case):
                failed += 1
                print(f"--- {case.kind.name}, seed {case.seed}: {case.typed}\n{wrong}", flush=True)
    print(f"{failed} failed")
    sys.exit(bool(failed))


def _cases(kinds: list[Kind], seeds: range) -> Iterator[Case]:
    for kind in kinds:
        for seed in seeds:
            yield Case(kind, seed)


if __name__ == "__main__":
    main()
