"""Whether a library is whole: every file hashed, every row's file there, nothing left lying about."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from genepool import locking, progress
from genepool.checked import is_digest
from genepool.errors import InputError
from genepool.skills.library import Library, describe
from genepool.skills.library_entry import LibraryEntry

_CHUNK = 1 << 20


@dataclass(frozen=True)
class LibraryProblem:
    """Something that is not as it should be.

    Attributes:
        kind: "catalogue", "partial", "damaged", "orphan" or "missing".
        where: the file, from the library's folder on, or the skill's name.
        text: what is wrong.
        repaired: what was done about it; "" when nothing was.
    """

    kind: str
    where: str
    text: str
    repaired: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return dict(vars(self))


def check(library: Library, *, repair: bool = False) -> list[LibraryProblem]:
    """Looks at everything.

    Args:
        library: what to check; others may go on using it.
        repair: remove damaged rows and copies that were never finished, set damaged files aside, take in whole skills
            that no row names, and remove rows whose file is missing unless something descends from them.

    Returns:
        What was found. Those that are not `repaired` remain.

    Raises:
        InputError: the library cannot be read, or repaired where it is.
    """
    if repair and library.files.is_symlink():
        raise InputError(
            "is a link, and repairing would change its target",
            where=library.files,
            fix="Replace it by the folder",
        )
    found: list[LibraryProblem] = []
    if (answer := library.catalogue.integrity()) != "ok":
        found.append(LibraryProblem("catalogue", library.catalogue.path.name, answer))
    found += [_row(library, *row, repair) for row in library.catalogue.damaged()]
    found += [problem for path in _listed(library, "*.partial") if (problem := _partial(library, path, repair))]
    files = [path for path in _listed(library, "*.safetensors") if path.parent.name != "damaged"]
    with progress.bar("checking", sum(map(_size, files)), "bytes") as bar:
        for path in files:
            if problem := _file(library, path, repair, bar):
                found.append(problem)
    return found + _missing(library, repair)


def _row(library: Library, number: int, name: str, what: str, repair: bool) -> LibraryProblem:
    """A row that cannot be believed: its skill's file, if there is one, is an orphan once the row is gone."""
    if repair:
        with library.catalogue.writing():
            library.catalogue.delete_row(number)
    return LibraryProblem("catalogue", name, f"its row is damaged: {what}", "its row was removed" if repair else "")


def _partial(library: Library, path: Path, repair: bool) -> LibraryProblem | None:
    if not path.is_file() or path.is_symlink():
        return LibraryProblem("partial", _shown(library, path), "not a file") if os.path.lexists(path) else None
    try:
        # Without a lock on it nobody is at work on it any more.
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if repair:
                with locking.reporting_full_disk(path):
                    path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return None
    return LibraryProblem(
        "partial", _shown(library, path), "a copy that was never finished", "removed" if repair else ""
    )


def _file(library: Library, path: Path, repair: bool, bar: progress.Bar) -> LibraryProblem | None:
    """A file by its content: it is where it should be, or an orphan, or damaged."""
    if os.path.lexists(path) and not path.is_file():
        return LibraryProblem("damaged", _shown(library, path), "not a file")
    try:
        digest = _hash(path, bar)
    except FileNotFoundError:
        # Removed since it was listed.
        return None
    except OSError as error:
        return LibraryProblem("damaged", _shown(library, path), f"cannot be read ({error.strerror})")
    shown = _shown(library, path)
    if path != library.path(digest) and is_digest(path.stem):
        text = f"its content is not what it is named by, it is {digest[:12]}"
        return LibraryProblem("damaged", shown, text, _set_aside(library, path) if repair else "")
    if path == library.path(digest) and _has_row(library, digest):
        return None
    if not repair:
        return LibraryProblem("orphan", shown, "no row names it") if path.exists() else None
    if path.is_symlink():
        # Whoever changes what it leads to would change the library.
        return LibraryProblem("orphan", shown, "a link, which no row names", _set_aside(library, path))
    try:
        kept, sketch = describe(path, digest, "")
    except InputError as error:
        return LibraryProblem("orphan", shown, f"no whole skill: {error.what}", _set_aside(library, path))
    kept, new = library.adopt(path, kept, sketch)
    return LibraryProblem(
        "orphan", shown, "no row names it", f"{'taken in' if new else 'put in its place'} as {kept.name}"
    )


def _has_row(library: Library, digest: str) -> bool:
    if not library.catalogue.has(digest):
        # Whoever is adding it holds the lock until its row is there.
        with contextlib.suppress(InputError), library.catalogue.writing():
            pass
    return library.catalogue.has(digest)


def _missing(library: Library, repair: bool) -> list[LibraryProblem]:
    rows = [kept for kept in library.catalogue.all() if not library.path(kept.digest).is_file()]
    done: dict[str, str] = {}
    # Children first; what is freed by that comes in the next round.
    while repair and any(_dropped(library, kept, done) for kept in rows if kept.digest not in done):
        pass
    found = []
    for kept in rows:
        if kept.digest not in done and not library.catalogue.has(kept.digest):
            # Removed since it was listed.
            continue
        text = f"its file is missing ({kept.short})"
        if repair and kept.digest not in done:
            names = ", ".join(child.name for child in library.catalogue.children(kept.digest))
            text += f"; {names} descends from it: add it again"
        found.append(LibraryProblem("missing", kept.name, text, done.get(kept.digest, "")))
    return found


def _dropped(library: Library, kept: LibraryEntry, done: dict[str, str]) -> bool:
    if library.catalogue.children(kept.digest):
        return False
    library.drop_row(kept)
    done[kept.digest] = "its row was removed"
    return True


def _set_aside(library: Library, path: Path) -> str:
    aside = library.files / "damaged" / path.name
    if aside.parent.is_symlink():
        raise InputError("is a link, and files are moved there", where=aside.parent, fix="Remove it")
    with locking.reporting_full_disk(library.folder), library.catalogue.writing():
        aside.parent.mkdir(exist_ok=True)
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{path.stem}-{number}.safetensors")
        os.replace(path, aside)
    return f"moved to {_shown(library, aside)}"


def _hash(path: Path, bar: progress.Bar) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.advance(len(chunk))
    return digest.hexdigest()


def _listed(library: Library, pattern: str) -> list[Path]:
    return sorted(library.files.rglob(pattern)) if library.files.is_dir() else []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _shown(library: Library, path: Path) -> str:
    return str(path.relative_to(library.folder))
