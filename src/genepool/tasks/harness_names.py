"""Which names lm-evaluation-harness may know, read from its files in half a second.

Its own index of the same files takes 8 s and 170 MB. A name that is written in none of them is in no index either, so
most misspelt names are told at once.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

# A name stands alone: in a list by lines or in brackets, or behind one of the three keys. Settings that several
# tasks share lie in files of any ending, or of none.
_NAME = re.compile(
    rb"""(?:^[ \t]*-[ \t]+|[\[,][ \t]*|\b(?P<key>task|group|tag)["']?[ \t]*:[ \t]*)"""
    rb"""["']?(?P<name>[^\s,\[\]#"'][^,\[\]#"'\n]*?)["']?[ \t]*(?=$|[,\]#\r])""",
    re.MULTILINE,
)
_NO_SETTINGS = (".py", ".pyc", ".md")


def harness_installed() -> bool:
    """Whether lm-eval is installed here; asking imports nothing."""
    return importlib.util.find_spec("lm_eval") is not None


def written_in_harness(name: str) -> bool:
    """Whether a task, group or tag of that name may be among those that lm-eval brings; False is sure, True is not."""
    return name in _written()[0]


def advice_on_name(name: str) -> str:
    """What to do about a name that lm-eval does not know."""
    close = difflib.get_close_matches(name, _written()[1], n=1, cutoff=0.7)
    return f"Did you mean '{close[0]}'?" if close else "Check its spelling; `lm-eval ls tasks` lists all"


@cache
def _written() -> tuple[frozenset[str], tuple[str, ...]]:
    """All that may be names, and of these those behind a key, in order."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        return frozenset(), ()
    names: set[bytes] = set()
    keyed: set[bytes] = set()
    for folder, _, files in os.walk(Path(found.origin).parent / "tasks"):
        for file in files:
            if not file.endswith(_NO_SETTINGS):
                for match in _NAME.finditer(Path(folder, file).read_bytes()):
                    names.add(match["name"])
                    if match["key"]:
                        keyed.add(match["name"])
    return frozenset(map(_text, names)), tuple(sorted(map(_text, keyed)))


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
