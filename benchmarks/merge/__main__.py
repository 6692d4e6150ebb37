"""`python -m benchmarks.merge`: the merge benchmark's command line; see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.measuring import ROOT, CommandFailed
from benchmarks.merge import peer, scaling, side_by_side
from genepool.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Runs what the arguments ask for and prints tables; the exit code."""
    options = _parser().parse_args(arguments)
    work = options.work.absolute()
    try:
        if options.profile:
            from benchmarks.merge import sampling

            print(sampling.profile_rows(options.sizes or [0.25], options.profile, work), flush=True)
            return 0
        if options.scaling:
            settings = side_by_side.Settings(work, options.rounds, options.only)
            print(scaling.run(settings, options.sizes or scaling.SIZES, options.figure), flush=True)
            return 0
        found = None
        if not options.no_mergekit:
            found = peer.find(options.mergekit or peer.install(work / "mergekit"))
        settings = side_by_side.Settings(work, options.rounds, options.only, found, options.device)
        complete = True
        for billions in options.sizes or [0.25, 1.0]:
            text, worked = side_by_side.compare(billions, settings)
            print(text, flush=True)
            complete = complete and worked
        return 0 if complete else 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except CommandFailed as error:
        print(f"error: a measured command failed: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--sizes", type=_sizes, metavar="B,B", help="billions of parameters; 0.25,1 when absent")
    parser.add_argument("--rounds", type=_rounds, default=3, metavar="N", help="paired runs of each row (3)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--mergekit", type=Path, metavar="PYTHON", help="interpreter of an environment with mergekit")
    group.add_argument("--no-mergekit", action="store_true", help="leave mergekit out")
    parser.add_argument(
        "--only", type=_pattern, metavar="PATTERN", help="rows whose name matches, even those too slow for the size"
    )
    parser.add_argument("--device", metavar="NAME", help="also on this accelerator, such as cuda")
    parser.add_argument("--scaling", action="store_true", help="cost against parameters and against models instead")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="with --scaling: also draw an SVG")
    parser.add_argument(
        "--profile", type=_pattern, metavar="PATTERN", help="say where the time of matching rows goes instead"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / ".cache" / "bench",
        metavar="DIR",
        help="checkpoints and outputs (.cache/bench)",
    )
    return parser


def _sizes(text: str) -> list[float]:
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers such as 0.25,1") from None
    if not all(0 < size < float("inf") for size in sizes):
        raise argparse.ArgumentTypeError("sizes are positive, in billions of parameters")
    return sizes


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of rounds: 1 or more")
    return int(text)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression: {error}") from None
    return text


if __name__ == "__main__":
    sys.exit(main())
