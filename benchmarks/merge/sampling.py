"""Says what holds a figure: a merge run in this process, with its stages timed and all its threads sampled.

cProfile follows one thread and counts native code on whoever called it last; a merge works on several. So the
single-threaded beginning is given to cProfile, and the merge itself is sampled: which line of genepool each thread was
in, every few milliseconds.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import FrameType

import genepool
from benchmarks.measuring import table
from benchmarks.merge import checkpoints
from benchmarks.merge.rows import rows
from benchmarks.merge.side_by_side import EXPERTS, Settings, chosen_rows, known_methods

_PACKAGE = f"{Path(genepool.__file__).parent}/"
_SAMPLING_SECONDS = 0.005
_SHOWN = 15


@dataclass(frozen=True)
class Stage:
    """What one stage used: seconds, and page faults served without the disk (each new or copied page is one)."""

    name: str
    wall: float
    user: float
    system: float
    faults: int


def profile_rows(sizes: Sequence[float], pattern: str, work: Path) -> str:
    """A section of Markdown for each row whose name matches, on checkpoints of each size."""
    settings = Settings(work)
    sections = []
    for billions in sizes:
        folder = checkpoints.make(work / f"llama-{billions:g}B", checkpoints.layout_of(billions), EXPERTS)
        models = [folder / name for name in checkpoints.model_names(EXPERTS)]
        for row in chosen_rows(rows(known_methods(), models[0], models[1:]), billions, pattern):
            settings.clear()
            recipe = settings.outputs / "recipe.yaml"
            recipe.write_text(row.recipe)
            sections.append(profile_merge(recipe, settings.outputs / "genepool", f"{row.name}, {billions:g}B"))
    settings.clear()
    return "\n".join(sections) if sections else f"No row matches '{pattern}'."


def profile_merge(recipe: Path, out: Path, title: str) -> str:
    """Runs one recipe and says where its time went.

    What is imported by one row's run is there for the next: only the first row of a process shows what loading costs.
    """
    stages: list[Stage] = []
    with _stage("import", stages):
        from genepool.merging import load_recipe, plan_merge, run_plan
    planning = cProfile.Profile()
    with _stage("plan (loads torch)", stages):
        planning.enable()
        plan = plan_merge(load_recipe(recipe))
        planning.disable()
    with Sampler() as sampler, _stage("survey, merge, write, publish", stages):
        run_plan(plan, out, overwrite=True)
    note = "One run in one process; faults are pages that were given out or copied (4 kB each, or 2 MB if huge)."
    header = ("stage", "wall s", "user s", "system s", "page faults")
    rows_ = [[s.name, f"{s.wall:.2f}", f"{s.user:.2f}", f"{s.system:.2f}", str(s.faults)] for s in stages]
    merging = f"The merge, {sampler.count} samples of threads that were in genepool, by line:"
    return (
        table(f"Profile: {title}", note, header, rows_)
        + f"\n{merging}\n\n```\n{sampler.text()}```\n"
        + f"\nThe plan, by function:\n\n```\n{_planning_text(planning)}```\n"
    )


class Sampler:
    """Counts, for every thread, the line of genepool it is in and what that line calls; a context manager."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def count(self) -> int:
        """Samples in all."""
        return self.lines.total()

    def text(self) -> str:
        """The lines with most samples, with their share."""
        return "".join(f"{n / self.count:6.1%}  {line}\n" for line, n in self.lines.most_common(_SHOWN))

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLING_SECONDS):
            for thread, frame in sys._current_frames().items():
                if thread != self._thread.ident and (place := _place(frame)):
                    self.lines[place] += 1


def _place(frame: FrameType | None) -> str | None:
    """The innermost line of genepool on a stack, and the function outside it that is running, if there is one."""
    outside = None
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path.startswith(_PACKAGE):
            place = f"{path.removeprefix(_PACKAGE)}:{frame.f_lineno} {name}"
            return f"{place} > {outside}" if outside else place
        # A thread that waits for others or for work is not what holds the figure.
        if path.endswith(("/threading.py", "/queue.py")) or "/concurrent/" in path:
            return None
        outside = outside or f"{Path(path).name}:{name}"
        frame = frame.f_back
    return None


@contextmanager
def _stage(name: str, stages: list[Stage]) -> Iterator[None]:
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    stages.append(
        Stage(
            name,
            wall,
            after.ru_utime - before.ru_utime,
            after.ru_stime - before.ru_stime,
            after.ru_minflt - before.ru_minflt,
        )
    )


def _planning_text(profile: cProfile.Profile) -> str:
    stream = StringIO()
    pstats.Stats(profile, stream=stream).sort_stats("cumulative").print_stats()
    lines = stream.getvalue().splitlines()
    head = [line for line in lines if line.strip().startswith("ncalls")]
    own = [line.replace(_PACKAGE, "") for line in lines if _PACKAGE in line]
    return "\n".join(head + own[:_SHOWN]) + "\n"
