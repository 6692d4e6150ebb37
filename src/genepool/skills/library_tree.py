"""What a skill descends from and what descends from it, as lines of a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from genepool.skills.library import Library
from genepool.skills.library_entry import LibraryEntry

# (digest, the skill where the library has it).
_Relative = tuple[str, LibraryEntry | None]


@dataclass(frozen=True)
class Relative:
    """One line of the tree.

    Attributes:
        depth: how many generations away; 1 for a parent or a child.
        digest: of its file.
        name: "" when it is not in the library.
        operation: what made it.
        again: whether it stands further up already, with what is below it.
    """

    depth: int
    digest: str
    name: str
    operation: str
    again: bool

    def to_dict(self) -> dict[str, str | int]:
        """Plain data."""
        return {"depth": self.depth, "digest": self.digest, "name": self.name, "operation": self.operation}


def ancestors(library: Library, kept: LibraryEntry) -> list[Relative]:
    """What a skill was made of, and what that was made of."""
    known = {one.digest: one for one in library.catalogue.all()}
    return _walk(kept, lambda each: [(digest, known.get(digest)) for digest in each.parents])


def descendants(library: Library, kept: LibraryEntry) -> list[Relative]:
    """What was made of a skill, and what was made of that."""
    return _walk(kept, lambda each: [(child.digest, child) for child in library.catalogue.children(each.digest)])


def tree_lines(lines: Sequence[Relative]) -> list[str]:
    """The lines as text, indented by generation."""
    return [f"{'  ' * (line.depth - 1)}{_label(line)}" for line in lines]


def _walk(kept: LibraryEntry, next_of: Callable[[LibraryEntry], Iterable[_Relative]]) -> list[Relative]:
    found: list[Relative] = []
    seen = {kept.digest}
    # A stack of our own: a line of a thousand generations is no reason to fail.
    waiting = [(1, relative) for relative in reversed(list(next_of(kept)))]
    while waiting:
        depth, (digest, other) = waiting.pop()
        again = digest in seen
        seen.add(digest)
        operation = str(other.lineage.get("operation", "")) if other is not None else ""
        found.append(Relative(depth, digest, other.name if other is not None else "", operation, again))
        if other is not None and not again:
            waiting += [(depth + 1, relative) for relative in reversed(list(next_of(other)))]
    return found


def _label(line: Relative) -> str:
    if not line.name:
        return f"{line.digest[:12]}, not in the library"
    made = f", {line.operation}" if line.operation else ""
    return f"{line.name} ({line.digest[:12]}{made}{', see above' if line.again else ''})"
