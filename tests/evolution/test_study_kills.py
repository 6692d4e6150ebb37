"""The acceptance test of an unkillable run: a hundred kill -9 of driver, worker and group, then the same end.

Every kill costs the start of a driver and two workers, so the slow tests have a part of them, and `harden` all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.snapshot import take_snapshot

SITTING = """
import sys
from genepool import progress
from genepool.errors import InputError
from genepool.evolution import run_study
progress.set_quiet(True)
run_study(sys.argv[1], sys.argv[2], ledger=sys.argv[3], workers=2, evaluations=int(sys.argv[4]))
"""


def history(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def best(out: Path) -> dict[str, Any]:
    data = json.loads((out / "best.json").read_text())
    return {key: value for key, value in data.items() if key not in ("cost", "ledger")}


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.parametrize(
    "least", [pytest.param(24, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.harden)]
)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds workers in /proc")
def test_kills_of_driver_worker_and_group_change_nothing(tmp_path: Path, least: int) -> None:
    world = evolve_world.build_world(tmp_path / "world")
    data = {key: value for key, value in evolve_world.STUDY.items() if key not in ("method", "parameters", "search")}
    study = world / "bred.yaml"
    study.write_text(yaml.safe_dump({**data, "strategy": {"name": "genome", "options": {"population": 6}}}))
    out, dice = tmp_path / "killed", random.Random(7)

    def sit(evaluations: int) -> subprocess.Popen[bytes]:
        arguments = [str(study), str(out), str(tmp_path / "killed.sqlite"), str(evaluations)]
        return subprocess.Popen([sys.executable, "-c", SITTING, *arguments], start_new_session=True)

    def done() -> int:
        try:
            return take_snapshot(out).done
        except InputError:
            return 0

    kills = sittings = 0
    while kills < least:
        # More than can be done, so that no sitting ends by itself.
        driver, before = sit(10**6), done()
        sittings += 1
        if sittings % 4:
            # In the middle of the work; a worker twice at most, for a candidate that ends three workers has failed.
            while done() == before and driver.poll() is None:
                time.sleep(0.1)
            for _ in range(2):
                if workers := children(driver.pid):
                    os.kill(dice.choice(workers), signal.SIGKILL)
                    kills += 1
                time.sleep(dice.uniform(0.0, 1.5))
        else:
            time.sleep(dice.uniform(0.0, 4.0))
        assert driver.poll() is None, "a sitting ended by itself"
        if dice.random() < 0.5:
            driver.kill()
        else:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        kills += 1
    total = done() + 6
    final = sit(total)
    assert final.wait() == 0
    run_study(study, tmp_path / "once", ledger=tmp_path / "once.sqlite", evaluations=total)
    assert history(out) == history(tmp_path / "once")
    assert best(out) == best(tmp_path / "once")
