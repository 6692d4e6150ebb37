"""What a kind of file is to the fuzzer, and the world of good files that the wrong ones are made of."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what the tests call it.
        file: the file, relative to the folder of a case, or a pattern that finds it; its first part is copied there
            from the world.
        form: see `mutations.mutated`.
        typed: command lines that read it; a case runs one of them.
        needs: other parts of the world that are copied beside it.
        row: what the table of the documentation calls it together with others; its name when empty.
        refused: whether the good file is refused too.
        seal: what puts right, in the folder of a case, the digests of the file that stand elsewhere.
    """

    name: str
    file: str
    form: str
    typed: tuple[str, ...]
    needs: tuple[str, ...] = ()
    seal: Callable[[Path], None] | None = None
    refused: bool = False
    row: str = ""

    def copied(self) -> tuple[str, ...]:
        """The parts of the world that a case holds copies of."""
        return (self.file.split("/")[0], *self.needs)

    def path(self, folder: Path) -> Path:
        """The file in the folder of a case."""
        return min(folder.glob(self.file))


# Command lines, in the folder of the world, or a function of it; and the parts that must be there before.
MADE: dict[str, tuple[tuple[str, ...], str | Callable[[Path], None]]] = {}


def made(*needs: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Says that a function of the world's folder makes the part of its name, from other parts."""

    def keep(function: Callable[[Path], None]) -> Callable[[Path], None]:
        MADE[function.__name__] = (needs, function)
        return function

    return keep


class World:
    """The good files, each made when it is first asked for.

    Args:
        folder: where they lie.
        run: runs a command line in that folder.
    """

    def __init__(self, folder: Path, run: Callable[[str], None]) -> None:
        self.folder, self._run = folder, run
        self._there: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str) -> Path:
        """A file or folder of the world."""
        maker = name if name in MADE else name.partition(".")[0]
        needs, how = MADE[maker]
        if maker not in self._there:
            for one in needs:
                self.part(one)
            if callable(how):
                how(self.folder)
            else:
                for line in how.strip().splitlines():
                    self._run(line.strip())
            self._there.add(maker)
        return self.folder / name


def words(line: str, world: Path) -> list[str]:
    """A command line as arguments."""
    return shlex.split(line.format(world=world))
