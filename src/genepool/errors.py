"""Errors that speak to the user: where it is, what is wrong, what to do.

Everything in genepool that a user can cause raises :class:`InputError`; the command line turns it into one
line on stderr and exit code 2. Anything else that escapes is a bug of ours and exits with 3.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Names in the advice for an unknown word, when none is close.
_MOST_NAMES = 60


class GenepoolError(Exception):
    """Base of all errors genepool raises on purpose; `exit_code` is what the command line exits with."""

    exit_code = 3


class InputError(GenepoolError):
    """The user's input is wrong.

    Args:
        what: what is wrong, as a clause without a final period ("shape [3] where the base has [4]").
        where: the file, and after a colon the key or tensor, that is at fault. Empty when the whole call is.
        fix: the way out, as a sentence without a final period.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{head}. {self.fix}" if self.fix else head
        line += "" if line.endswith("?") else "."
        return " ".join(line.split())

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders by pickling; keyword-only arguments need saying how.
        return (_rebuild_input_error, (type(self), self.what, self.where, self.fix))


class CheckFailed(GenepoolError):
    """A gate failed or a check found problems: the input was fine, the answer is no."""

    exit_code = 1


def _rebuild_input_error(kind: type[InputError], what: str, where: str, fix: str) -> InputError:
    return kind(what, where=where, fix=fix)


def refuse_newer(kind: str, version: object, known: int, where: str | Path, otherwise: str = "") -> None:
    """Refuses a file of a format that a newer genepool wrote.

    Args:
        kind: what the file is.
        version: what it says its format is.
        known: the newest format that is read here.
        where: the file, and the key.
        otherwise: another way out, as the rest of a sentence after "or".

    Raises:
        InputError: the version is a whole number above `known`.
    """
    if isinstance(version, int) and version > known:
        raise InputError(
            f"was written by a newer genepool ({kind} version {version}, this one knows {known})",
            where=where,
            fix=f"Install it with `pip install --upgrade genepool`{f', or {otherwise}' if otherwise else ''}",
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """The advice for an unknown word: the closest known one, or all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.55)
    if close:
        return f"Did you mean '{close[0]}'?"
    if not names:
        return "Nothing is known here"
    rest = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"Known here: {', '.join(names[:_MOST_NAMES])}{rest}"


def one_line(error: BaseException | str, longest: int = 160) -> str:
    """What another library's error says, on one line and without the final period.

    Args:
        error: the error, or its text.
        longest: characters that are kept. A longer text ends with its last whole sentence, or else with a whole word
            and "...".

    Returns:
        The text; the name of its class for an error without one.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) > longest:
        kept = said[: longest + 1]
        sentences, end, _ = kept.rpartition(". ")
        if not end:
            return f"{kept.rpartition(' ')[0] or kept[:longest]} ..."
        said = sentences
    return said.rstrip(".")


@contextmanager
def files_fault(what: str, *, where: str | Path, fix: str) -> Iterator[None]:
    """Whatever another library raises over a user's file in the block becomes an error of the file, in one line.

    Loaders look at few of the values that they read, so that an odd one makes them stumble anywhere.

    Args:
        what: what is wrong, such as "has no usable tokenizer"; the library's own words follow.
        where: the file or folder.
        fix: the way out.

    Raises:
        InputError: something was raised; one of ours goes through as it is.
    """
    try:
        yield
    except (GenepoolError, MemoryError):
        raise
    except BaseException as error:
        # Libraries written in Rust tell of a panic so, which is no `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what} ({first_sentence(error)})", where=where, fix=fix) from None


def first_sentence(error: BaseException) -> str:
    """The first sentence of another library's error, on one line."""
    return one_line(" ".join(str(error).split()).split(". ")[0] or type(error).__name__)


def listed(names: Iterable[str], limit: int = 6) -> str:
    """Names in a sentence: "a, b and c", or the first few and how many more."""
    shown = list(names)
    if len(shown) > limit:
        shown = [*shown[: limit - 1], f"{len(shown) - limit + 1:,} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""
