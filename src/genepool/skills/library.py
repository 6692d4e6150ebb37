"""A library of skills: a folder with a catalogue beside the skill files, which are named by their content.

    catalogue.sqlite
    files/ab/ab12...ef.safetensors    named by the SHA-256 of the file
    files/damaged/                    what `check` set aside
    files/*.partial                   a copy in work, locked by who makes it; left behind by a kill

A file comes before its row and goes after it, both under the catalogue's write lock: a crash at any byte leaves at most
a file that no row names, which `check` finds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from genepool import locking, staging
from genepool.checked import is_digest, is_number, is_text
from genepool.errors import InputError, listed, nearest
from genepool.skills.catalogue import Catalogue
from genepool.skills.library_entry import LibraryEntry
from genepool.skills.sketch import Sketch, sketch
from genepool.skills.skill import Skill
from genepool.weights import SkillFile, Weights

MOST_CHARACTERS = 200
# So many hex digits at least name a skill by its digest.
_SHORTEST_PREFIX = 4
_CHUNK = 1 << 20
_AGAIN = "Make or fetch the skill again"
_CHECK = "Look at the library with genepool library check"


def default_folder() -> Path:
    """`$GENEPOOL_LIBRARY`, else `library` in the working folder."""
    return Path(os.environ.get("GENEPOOL_LIBRARY") or "library")


class Library:
    """An open library; also a context manager.

        gp.Library.create("library")
        skill = gp.Skill.extract("bed/full/sort", base="bed/base")
        with gp.Library("library") as library:
            library.add(skill.save("sort.safetensors"), tags=["strings"])
            print(library.open("sort", base="bed/base"))

    Args:
        folder: where it is; the default folder when None.

    Raises:
        InputError: no library is there, or one that cannot be read.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.files = self.folder / "files"
        self.catalogue = Catalogue(self.folder / "catalogue.sqlite")

    @staticmethod
    def create(folder: str | Path | None = None) -> bool:
        """Makes an empty library.

        Returns:
            Whether none was there.

        Raises:
            InputError: the folder cannot be written to, or holds something else of that name.
        """
        folder = Path(folder) if folder is not None else default_folder()
        with locking.reporting_full_disk(folder):
            (folder / "files").mkdir(parents=True, exist_ok=True)
        return Catalogue.create(folder / "catalogue.sqlite")

    def close(self) -> None:
        """Closes the catalogue."""
        self.catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path(self, digest: str) -> Path:
        """Where the file of a digest is.

        Raises:
            InputError: it is no digest, and might lead out of the library.
        """
        if not is_digest(digest):
            raise InputError(f"got {digest!r:.80}, expected a SHA-256", where=self.catalogue.path, fix=_CHECK)
        return self.files / digest[:2] / f"{digest}.safetensors"

    def get(self, reference: str) -> LibraryEntry | None:
        """The skill of a name, or else the one whose digest begins so.

        Raises:
            InputError: several are.
        """
        if not is_text(reference):
            return None
        if (found := self.catalogue.by_name(reference)) is not None:
            return found
        prefix = reference.lower()
        if not _SHORTEST_PREFIX <= len(prefix) <= 64 or not set(prefix) <= set("0123456789abcdef"):
            return None
        several = self.catalogue.by_prefix(prefix)
        if len(several) > 1:
            names = listed(kept.name for kept in several)
            raise InputError(f"{reference} is ambiguous: {names}", where=self.folder, fix="Give a whole name")
        return several[0] if several else None

    def find(self, reference: str) -> LibraryEntry:
        """As `get`.

        Raises:
            InputError: none is, or several are.
        """
        if (found := self.get(reference)) is None:
            names = (kept.name for kept in self.catalogue.all())
            raise InputError(f"has no skill {reference!r}", where=self.folder, fix=nearest(reference, names))
        return found

    def open(self, reference: str, base: str | Path | Weights | None = None) -> Skill:
        """The skill of a name or of the beginning of a digest, to be read, added up, stored or put on its base.

        Args:
            reference: which.
            base: the model that it changes; see `Skill.open`.

        Raises:
            InputError: none or several are called so, its file is damaged, or the base is another.
        """
        kept = self.find(reference)
        skill = Skill.open(self.path(kept.digest), base)
        skill.change.name = kept.name
        return skill

    # ------------------------------------------------------------------ adding

    def add(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        licence: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> tuple[LibraryEntry, bool]:
        """Copies a skill file into the library. One that is there already, whatever it is called, stays as it is.

        Args:
            path: the file.
            name: what it is to be called; as in its header when None, or else as the file.
            tags: words to find it by.
            description, licence: instead of the header's.
            scores: beside the header's.

        Returns:
            The skill, and whether it is new.

        Raises:
            InputError: no whole skill, a name that is taken or cannot be one, or the library cannot be written to.
        """
        path = Path(os.path.expanduser(path))
        source = SkillFile(path)
        known = source.digest()
        there = self.catalogue.by_digest(known)
        if there is not None and self.path(known).is_file():
            return there, False
        header = source.header
        if name is None:
            name = header.name or path.stem
        if there is None:
            self._check_free(check_name(name, path), known)
        tags, scores = checked_tags(tags), checked_scores(scores or {}, "--score")
        if description is not None:
            checked_text(description, "description")
        if licence is not None:
            checked_text(licence, "licence")
        with self._copied(path) as (partial, digest):
            try:
                # What was copied is what is looked at, whatever happens to the file it came from.
                kept, found = describe(partial, digest, name)
            except InputError as error:
                where = error.where.replace(str(partial), str(path))
                raise InputError(error.what, where=where or path, fix=error.fix) from error
            kept = replace(
                kept,
                tags=tags,
                scores={**kept.scores, **scores},
                description=kept.description if description is None else description,
                licence=kept.licence if licence is None else licence,
            )
            return self._enter(partial, kept, found)

    def adopt(self, path: Path, kept: LibraryEntry, found: Sketch) -> tuple[LibraryEntry, bool]:
        """Takes in a whole skill file that lies in the folder of files already, under its default name.

        Args:
            path: the file.
            kept, found: of `describe`; the name is chosen here.

        Returns:
            The skill, and whether it had no row yet.
        """
        own = SkillFile(path).header.name
        name = own if not _wrong_in_line(own) else kept.short
        if self.catalogue.by_name(name) is not None:
            name = f"{name[: MOST_CHARACTERS - 15]} ({kept.short})"
        return self._enter(path, replace(kept, name=name), found)

    def _check_free(self, name: str, digest: str) -> None:
        other = self.catalogue.by_name(name)
        if other is not None and other.digest != digest:
            raise InputError(
                f"another skill is called {name!r} ({other.short})",
                where=self.folder,
                fix="Give another name with --name",
            )

    def _enter(self, partial: Path, kept: LibraryEntry, found: Sketch) -> tuple[LibraryEntry, bool]:
        """Moves a file to its place and adds its row."""
        with locking.reporting_full_disk(self.folder), self.catalogue.writing():
            there = self.catalogue.by_digest(kept.digest)
            if there is None:
                self._check_free(kept.name, kept.digest)
            place = self.path(kept.digest)
            if place.parent.is_symlink():
                raise InputError(
                    "is a link, and the files of a library must not be links", where=place.parent, fix="Remove it"
                )
            if partial != place:
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial, place)
                staging.sync_folder(place.parent)
                staging.sync_folder(self.files)
            if there is None:
                self.catalogue.insert(kept, found)
        return there or kept, there is None

    @contextmanager
    def _copied(self, path: Path) -> Iterator[tuple[Path, str]]:
        """A copy of a file in the folder of files, and its SHA-256; gone when the block ends, unless it was moved."""
        partial = self.files / f"{os.getpid()}-{secrets.token_hex(4)}.partial"
        try:
            with locking.reporting_full_disk(self.folder):
                self.files.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with open(path, "rb") as source, _locked(partial) as file:
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                    yield partial, digest.hexdigest()
        finally:
            partial.unlink(missing_ok=True)

    # ------------------------------------------------------------------ removing

    def remove(self, reference: str) -> LibraryEntry:
        """Takes a skill out: its row, then its file.

        Raises:
            InputError: it is not there, or others descend from it.
        """
        kept = self.find(reference)
        self.drop_row(kept)
        # The lock again: between the two, the same file may have been added anew.
        with locking.reporting_full_disk(self.folder), self.catalogue.writing():
            if not self.catalogue.has(kept.digest):
                self.path(kept.digest).unlink(missing_ok=True)
        return kept

    def drop_row(self, kept: LibraryEntry) -> None:
        """Removes a row alone.

        Raises:
            InputError: others descend from it.
        """
        with self.catalogue.writing():
            if children := self.catalogue.children(kept.digest):
                names = listed(child.name for child in children)
                raise InputError(
                    f"{names} {'descends' if len(children) == 1 else 'descend'} from {kept.name}",
                    where=self.folder,
                    fix="Remove what descends from it first",
                )
            self.catalogue.delete(kept.digest)


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """A new file that is locked as long as it is in work: a kill lets go of it, and `check` may remove it."""
    while True:
        with open(partial, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return
            # A check came between the two lines above and removed what nobody had locked.


def describe(path: Path, digest: str, name: str) -> tuple[LibraryEntry, Sketch]:
    """What the catalogue says of a skill file, and its sketch; reads all of it.

    Raises:
        InputError: it is no whole skill.
    """
    skill = SkillFile(path)
    header = skill.header
    kept = LibraryEntry(
        digest=digest,
        name=name,
        form=skill.form,
        base_fingerprint=checked_text(header.base_fingerprint, "base fingerprint", path),
        base_name=checked_text(header.base_name, "base name", path),
        bytes=skill.nbytes,
        tensors=len(skill.names()),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
        description=checked_text(header.description, "description", path),
        licence=checked_text(header.licence, "licence", path),
        lineage=_plain(header.lineage, "lineage", path),
        training=_plain(header.training, "training", path),
        scores=checked_scores(header.scores, path),
        error=header.error if header.error is not None and math.isfinite(header.error) else None,
    )
    try:
        return kept, sketch(skill)
    except InputError as error:
        raise InputError(error.what, where=error.where or path, fix=error.fix) from error


# ---------------------------------------------------------------------- what a catalogue can hold


def checked_text(text: str, what: str, where: str | Path = "") -> str:
    """Free text.

    Raises:
        InputError: it holds half a surrogate pair, or a zero.
    """
    if not is_text(text) or "\0" in text:
        raise InputError(f"the {what} is not text", where=where or f"--{what}", fix="Write it as UTF-8")
    return text


def check_name(name: str, where: str | Path = "--name") -> str:
    """A name, in any script.

    Raises:
        InputError: it is empty, too long, or holds control characters.
    """
    wrong = _wrong_in_line(name)
    if wrong:
        raise InputError(f"the name {wrong}", where=where, fix="Give another name with --name")
    return name


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags, each once.

    Raises:
        InputError: one is empty, too long, or holds control characters.
    """
    for tag in tags:
        if wrong := _wrong_in_line(tag):
            raise InputError(f"a tag {wrong}", where="--tag", fix="Give another tag")
    return tuple(dict.fromkeys(tags))


def checked_scores(scores: Mapping[str, Any], where: str | Path) -> dict[str, float]:
    """Scores by task.

    Raises:
        InputError: one is no number from 0 to 1, or has a name that is none.
    """
    for task, score in scores.items():
        if wrong := _wrong_in_line(task):
            raise InputError(f"the name of a scored task {wrong}", where=where, fix="Give the task another name")
        if not is_number(score, 0, 1):
            raise InputError(
                f"the score of {task} must be from 0 to 1, got {score!r}", where=where, fix="Give the mean score"
            )
    return {task: float(score) for task, score in scores.items()}


def _wrong_in_line(text: str) -> str:
    """What keeps a text from being a name in a list; empty when nothing does."""
    if not text.strip():
        return "is empty"
    if len(text) > MOST_CHARACTERS:
        return f"is longer than {MOST_CHARACTERS} characters"
    if not is_text(text):
        return "is not text"
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        return "holds control characters"
    return ""


def _plain(value: Mapping[str, Any], what: str, where: Path) -> dict[str, Any]:
    """JSON that can be written out again: no NaN, no half surrogate pairs."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InputError(f"its {what} cannot be written as JSON", where=where, fix=_AGAIN) from None
    return dict(value)
