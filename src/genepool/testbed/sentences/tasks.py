"""The tasks of the sentences testbed: what is asked of a text, the classes, and where texts of each class are found.

Plain data, without torch. `texts` gathers what is described here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genepool.testbed.choosing import chosen
from genepool.testbed.data import GENERIC
from genepool.testbed.sentences import reading


@dataclass(frozen=True)
class TextOrigin:
    """Where texts of a class are found.

    Attributes:
        packages: installed packages by their import name; "" is the standard library.
        endings: of the files that are read.
        read: the texts of a file's content.
    """

    packages: tuple[str, ...]
    endings: tuple[str, ...]
    read: Callable[[str], list[str]]


@dataclass(frozen=True)
class TextTask:
    """One task.

    Attributes:
        name: what the user calls it, and the name of its folder.
        does: one line for people.
        origins: where the texts of each class come from, by the class.
        unsaid: whether a text that holds the name of one of the classes is left out.
    """

    name: str
    does: str
    origins: Mapping[str, TextOrigin]
    unsaid: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.origins)


_PYTHON = (".py",)
# The packages that genepool needs, or that torch does: they are wherever genepool is.
_LIBRARIES = ("networkx", "numpy", "scipy", "sympy", "torch", "transformers")


def _code(packages: tuple[str, ...], *endings: str) -> TextOrigin:
    return TextOrigin(packages, endings, reading.lines_of_code)


TASKS: dict[str, TextTask] = {
    task.name: task
    for task in (
        TextTask(
            "language",
            "the language that two lines of source code are written in",
            {
                "python": _code(_LIBRARIES, *_PYTHON),
                "c++": _code(("torch",), ".h", ".hpp", ".cuh"),
                "c": _code(("numba", "numpy"), ".c", ".h"),
                "fortran": _code(("numpy",), ".f", ".f90"),
                "cmake": _code(("torch",), ".cmake"),
            },
        ),
        TextTask(
            "library",
            "the library whose documentation a sentence is from; no library is named in it",
            {name: TextOrigin((name,), _PYTHON, reading.documentation) for name in _LIBRARIES},
            unsaid=True,
        ),
        TextTask(
            "role",
            "what a text is for in source code: it documents, it comments, or it tells of an error",
            {
                "documentation": TextOrigin(_LIBRARIES, _PYTHON, reading.documentation),
                "comment": TextOrigin(_LIBRARIES, _PYTHON, reading.comments),
                "message": TextOrigin(_LIBRARIES, _PYTHON, reading.messages),
            },
        ),
    )
}

# What every model should go on telling apart, and no specialist is trained on.
CODE_OR_PROSE = TextTask(
    GENERIC,
    "whether a text of the standard library is code or prose",
    {
        "code": TextOrigin(("",), _PYTHON, reading.single_lines),
        "prose": TextOrigin(("",), _PYTHON, reading.documentation),
    },
)
DEFAULT_TASKS = tuple(TASKS)


def choose(names: Sequence[str]) -> tuple[TextTask, ...]:
    """The tasks called `names`, in that order.

    Raises:
        InputError: a name is unknown or given twice, or there is none.
    """
    return chosen(names, TASKS, "sentences")


def labels_of(tasks: Sequence[TextTask]) -> tuple[str, ...]:
    """The classes of all tasks, in the order of the scores of one head."""
    return tuple(label for task in tasks for label in task.classes)
