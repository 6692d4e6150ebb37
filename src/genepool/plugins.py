"""Files of a user's own code that the command line names with `--plugin`: what they bring, and which file it came from.

Nothing is run that the command line did not name. Knows neither methods nor metrics: each registry gives a `Door`. The
rooms that have registries use it, and `genepool.tasks.plugins` puts the doors together.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genepool.errors import InputError

_MODULES = "genepool_plugin_"


@dataclass(frozen=True)
class Door:
    """A kind of thing that a plugin may bring.

    Attributes:
        what: what one is called, with its article ("a merge method").
        how: what a user writes to bring one, as advice.
        everything: all of its kind by name, the package's own among them.
    """

    what: str
    how: str
    everything: Callable[[], Mapping[str, object]]


@dataclass(frozen=True)
class Plugin:
    """A file that was run.

    Attributes:
        path: the file, resolved.
        code: SHA-256, hex, of its text when it was run. What another version computed is not taken for the same.
    """

    path: Path
    code: str

    def place(self, error: BaseException) -> str:
        """The file, and the line of it where an error came from."""
        if isinstance(error, SyntaxError) and error.lineno:
            return f"{self.path}:{error.lineno}"
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f"{self.path}:{lines[-1]}" if lines else str(self.path)


_loaded: dict[str, Plugin] = {}


def plugin_of(thing: type | Callable[..., object]) -> Plugin | None:
    """The plugin that a class or a function was defined in; None when it is from elsewhere."""
    return _loaded.get(thing.__module__)


def is_loaded(path: Path) -> bool:
    """Whether this process has run the file."""
    return path.resolve() in {plugin.path for plugin in _loaded.values()}


def load(path: str | Path, doors: Sequence[Door]) -> list[str]:
    """Runs a Python file that registers things of a user's own.

    Args:
        path: the file; its code runs with all rights of this process.
        doors: the kinds of things it may bring.

    Returns:
        The names of what it brought.

    Raises:
        InputError: there is no such file, it fails, it brings nothing, or a name is taken.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise InputError("is not a Python file", where=path, fix="Name the .py file that defines your method or metric")
    # What the package has comes first, so that a name that is taken is the plugin's fault.
    before = [dict(door.everything()) for door in doors]
    _run(path)
    found = [
        name
        for door, known in zip(doors, before, strict=True)
        for name, thing in door.everything().items()
        if known.get(name) is not thing
    ]
    if not found:
        raise InputError(
            f"it defines neither {' nor '.join(door.what for door in doors)}",
            where=path,
            fix=", or ".join(door.how for door in doors),
        )
    return found


def _run(path: Path) -> None:
    resolved = path.resolve()
    name = f"{_MODULES}{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # What is run is what was hashed. Python's own loader would take compiled code from a cache that knows a file by
    # its second and its size, and would write one beside the user's file.
    text = resolved.read_bytes()
    _loaded[name] = plugin = Plugin(resolved, hashlib.sha256(text).hexdigest())
    try:
        exec(compile(text, str(resolved), "exec"), module.__dict__)
    except InputError as error:
        raise InputError(error.what, where=path, fix=error.fix) from None
    except Exception as error:
        where = plugin.place(error).replace(str(resolved), str(path), 1)
        raise InputError(f"cannot be run ({type(error).__name__}: {error})", where=where, fix="Correct it") from None
