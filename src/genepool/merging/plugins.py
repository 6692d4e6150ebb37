"""Merge methods from outside the package: a file the user names with `--plugin`.

Nothing is run that the command line did not name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.merging.registry import all_methods

if TYPE_CHECKING:
    from genepool.merging.method import Method

_MODULES = "genepool_plugin_"


def load_plugin(path: str | Path) -> list[str]:
    """Runs a Python file that registers merge methods.

    Args:
        path: the file; its code runs with all rights of this process.

    Returns:
        The names of its methods.

    Raises:
        InputError: there is no such file, it fails, it registers no method, or a name is taken.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise InputError("not a Python file", where=path, fix="Name the .py file that defines the method")
    # Built-in methods first, so that a name that is taken is the plugin's fault.
    all_methods()
    resolved = path.resolve()
    name = f"{_MODULES}{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        raise InputError(error.what, where=path, fix=error.fix) from None
    except Exception as error:
        raise InputError(
            f"cannot be run ({type(error).__name__}: {error})", where=_place(error, path, resolved), fix="Correct it"
        ) from None
    found = [method.name for method in all_methods().values() if type(method).__module__ == name]
    if not found:
        raise InputError("it registers no merge method", where=path, fix="Put @register above its class")
    return found


def plugin_of(method: Method) -> Path | None:
    """The file that `load_plugin` took a method from; None for others. What a worker process must load too."""
    module = type(method).__module__
    return Path(inspect.getfile(type(method))) if module.startswith(_MODULES) else None


def _place(error: Exception, path: Path, resolved: Path) -> str:
    """The file, and the line of it where the error came from."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(resolved)]
    return f"{path}:{lines[-1]}" if lines else str(path)
