"""`python -m benchmarks.adaptation [measure | page]`: measured in pieces; goes on where it was.

`measure` adds cells to cells.jsonl and trials/trials.jsonl until all are there or `--minutes` are over, and writes the
page. `page` writes docs/streams.md from the cells alone.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.adaptation import page
from benchmarks.adaptation.arms import ARMS, BEDS
from benchmarks.adaptation.cells import StreamCells
from benchmarks.adaptation.measured import measure
from benchmarks.adaptation.trials.asked import TRIALS, measure_trials
from benchmarks.adaptation.trials.trial import TrialCells
from genepool import progress


def main() -> None:
    """Measures or draws."""
    names = [arm.name for arm in ARMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("measure", "page"), default="measure")
    parser.add_argument("--arms", nargs="+", choices=names, default=names, metavar="ARM", help="; ".join(names))
    beds = list(BEDS)
    parser.add_argument("--beds", nargs="+", choices=beds, default=beds, metavar="BED", help=", ".join(beds))
    parser.add_argument("--minutes", type=float, help="begin no other cell after so many minutes")
    trials = list(TRIALS)
    parser.add_argument("--trials", nargs="*", choices=trials, default=trials, metavar="TRIAL",
                        help=f"measure these trials: {'; '.join(trials)}")  # fmt: skip
    asked = parser.parse_args()
    if asked.what == "measure":
        progress.set_quiet(False)
        began, minutes = time.monotonic(), asked.minutes
        missing = measure(StreamCells(), arms=asked.arms, beds=asked.beds, minutes=minutes)
        left = None if minutes is None else minutes - (time.monotonic() - began) / 60
        missing += measure_trials(TrialCells(), asked.trials, minutes=left)
        progress.message(f"{missing} cells are missing" if missing else "every cell is there")
    page.write()


if __name__ == "__main__":
    main()
