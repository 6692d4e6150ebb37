"""`python -m benchmarks.architectures [--only NAME ...] [--record FILE]`: goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.architectures.checks import Found, check
from benchmarks.architectures.classes import classes
from benchmarks.architectures.page import table, write
from genepool import progress

# A class that takes longer has hung; most take a second where nothing else runs.
SECONDS = 120


def main() -> None:
    """Checks classes in processes of their own; prints the table and names each that is not as it should be."""
    known = classes()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="classes, or model_types, in place of all")
    parser.add_argument("--json", action="store_true", help="print one line of JSON a class in place of the table")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument(
        "--record", type=Path, help="a JSONL file that results are added to; what is in it is not repeated"
    )
    parser.add_argument("--update", action="store_true", help="write the results to docs/reference/architectures.md")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="give up a class after this time; raise it on a busy machine"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work()
        return
    chosen = {name: kind for name, kind in known.items() if not asked.only or {name, kind} & set(asked.only)}
    if unknown := sorted(set(asked.only or ()) - {*known, *known.values()}):
        parser.error(f"--only {unknown[0]}: no such class in transformers' mappings")
    done = _recorded(asked.record) if asked.record else {}
    left = [name for name in chosen if name not in done]
    for found in _checked(left, known, max(1, asked.workers), asked.seconds):
        done[found.name] = found
        if asked.record:
            with open(asked.record, "a", encoding="utf-8") as file:
                file.write(json.dumps(found.as_json()) + "\n")
    results = [done[name] for name in chosen]
    if asked.update:
        write(results, len(known))
    print("\n".join(json.dumps(one.as_json()) for one in results) if asked.json else table(results))
    sys.exit(1 if any(one.wrong for one in results) else 0)


def work() -> None:
    """Reads a class a line, writes what came of it a line."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    progress.set_quiet(True)
    # Whatever a library prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, kind = line.split()
        answers.write(json.dumps(check(name, kind).as_json()) + "\n")
        answers.flush()


def _checked(names: list[str], known: dict[str, str], workers: int, seconds: int) -> Any:
    """Results as they come, from worker processes that are begun anew after a crash or a hang."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    results: queue.SimpleQueue[Found] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as cache, progress.bar("checking", len(names), "classes") as bar:
        environment = {**os.environ, "GENEPOOL_CACHE": cache, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

        def serve() -> None:
            worker: _Worker | None = None
            while not waiting.empty():
                name = waiting.get()
                worker = worker or _Worker(environment)
                line = worker.ask(f"{name} {known[name]}", seconds)
                if line is None:
                    worker.end()
                    worker = None
                    results.put(Found(name, known[name], "not built", reason=f"crashed or took {seconds} s"))
                else:
                    results.put(Found(**json.loads(line)))
            if worker is not None:
                worker.end()

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for _ in names:
            found = results.get()
            bar.advance()
            yield found
        for thread in threads:
            thread.join()


class _Worker:
    """A process that checks one class after another."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.architectures", "--worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, line: str, seconds: int) -> str | None:
        """The answer; None when none came in this time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            return self._lines.get(timeout=seconds) or None
        except (OSError, queue.Empty):
            return None

    def end(self) -> None:
        """Ends it, whatever it is doing."""
        self.process.kill()
        self.process.wait()


def _recorded(path: Path) -> dict[str, Found]:
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["name"]: Found(**line) for line in lines}


if __name__ == "__main__":
    main()
