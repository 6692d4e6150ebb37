"""What benchmarks share that measure arms with seeds, cell by cell: the command, the file's lines, and means with t."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.claims.verdict import student
from genepool import progress


class NamedArm(Protocol):
    """An arm, whatever it measures."""

    @property
    def name(self) -> str:
        """In tables and on the command line."""


def measure_by_arm(
    module: str,
    words: str | None,
    arms: Sequence[NamedArm],
    seeds: int,
    measure: Callable[..., int],
    write: Callable[[], object],
) -> None:
    """The command `python -m MODULE [measure | page]`: measures what is missing, and writes the page.

    Args:
        module: its name.
        words: what its help says.
        arms: all of them, in the order in which they are measured.
        seeds: how many, from 0 on.
        measure: takes `arms`, `seeds` and `minutes`; how many cells are missing then.
        write: writes the page from the cells.
    """
    names = [arm.name for arm in arms]
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=words)
    parser.add_argument("what", nargs="?", choices=("measure", "page"), default="measure")
    parser.add_argument("--arms", nargs="+", choices=names, default=names, metavar="ARM", help="; ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=range(seeds), help="these, from 0 on")
    parser.add_argument("--minutes", type=float, help="begin no other cell after so many minutes")
    asked = parser.parse_args()
    if asked.what == "measure":
        progress.set_quiet(False)
        chosen = [arm for arm in arms if arm.name in asked.arms]
        missing = measure(arms=chosen, seeds=asked.seeds, minutes=asked.minutes)
        progress.message(f"{missing} cells are missing" if missing else "every cell is there")
    write()


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that is added to, which need not exist; one that was cut off by a kill is taken away."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and not text.endswith("\n"):
        # What is added next must not be glued to the line that was cut off.
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return text.splitlines()


def mean_with_interval(values: Sequence[Any], seeds: int) -> str:
    """The mean of values with half of its 95% interval, and in parentheses how many they are, where not one a seed.

    Args:
        values: one for each seed that was measured.
        seeds: how many there are.
    """
    told = f"{np.mean(values):.3f}"
    if len(values) > 1:
        told += f" ± {student(len(values)) * float(np.std(values, ddof=1)) / math.sqrt(len(values)):.3f}"
    return told if len(values) == seeds else f"{told} ({len(values)})"
