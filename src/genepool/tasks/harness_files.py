"""Where the task files of lm-evaluation-harness lie: looked for in folders of a stranger's, in bounded work.

Used by the breeding of models on tasks that its files name. Opens no task; `harness_tasks` does.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from genepool.errors import InputError

_SUFFIXES = (".yaml", ".yml")
# Lm-eval's own folder has some ten thousand files of a few KiB.
_MOST_FILES, _MOST_BYTES = 100_000, 1 << 20


def find_task_file(folder: str | Path, name: str) -> Path | None:
    """The file of lm-eval in a folder or below it that defines a task of this name; None where none does.

    Of each file the first MiB is looked at.

    Raises:
        InputError: the folder holds more YAML files than a collection of tasks does, or one cannot be read.
    """
    says = re.compile(rf"^task:\s*['\"]?{re.escape(name)}['\"]?\s*(#.*)?$", re.MULTILINE)
    files = (one for one in Path(folder).rglob("*") if one.suffix in _SUFFIXES and one.is_file())
    found = list(islice(files, _MOST_FILES + 1))
    if len(found) > _MOST_FILES:
        raise InputError(
            f"holds more than {_MOST_FILES:,} YAML files", where=folder, fix=f"Name the folder that holds {name}"
        )
    for file in sorted(found):
        try:
            with open(file, "rb") as opened:
                text = opened.read(_MOST_BYTES).decode(errors="replace")
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=file, fix="Check its permissions") from None
        if says.search(text):
            return file.resolve()
    return None
