"""Every strategy through the command a user types: killed in the middle, and gone on with by the same command.

Strategies are those of the registry, so that a new one is tested unasked. A sample of them is slow: each once by
generations and every other one that can be steady once so; the others and the other worker counts are `harden`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import evolve_fakes as fakes
import evolve_world
import pytest
import yaml
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.evolution import run_study, strategies
from genepool.evolution.collection import read_collection
from genepool.evolution.representations import kind_for
from genepool.evolution.snapshot import take_snapshot
from genepool.evolution.store import StudyStore, Verdict

#: Several generations of the sizes below, and for most strategies a last one that the budget cuts off.
BUDGET = 26
#: After the first generation, with room to go on.
KILLED_AFTER = 9
#: What makes a generation small, where a strategy has the option.
SMALL = {"population": 6, "batch": 6, "children": 2}
#: What a study has besides its base, tasks and strategy, by the kind of genome that its strategy varies unasked.
VARIED: dict[str, dict[str, Any]] = {
    "merge_parameters": {
        "skills": evolve_world.STUDY["skills"],
        "vary": {key: evolve_world.STUDY[key] for key in ("method", "parameters", "search")},
    },
    "checkpoint_coefficients": {"skills": evolve_world.STUDY["skills"]},
    "models_or_adapters": {"skills": evolve_world.STUDY["skills"]},
    "singular_values": {"skills": ["base+adapter"]},
}
PROC = Path("/proc/self/task").is_dir()
COMMON = {key: evolve_world.STUDY[key] for key in ("study", "base", "tasks", "seed", "batch")}


def cases() -> list[Any]:
    found: list[Any] = []
    once_steady = 0
    for number, (name, entry) in enumerate(strategies().items()):
        once_steady += entry.build.steady
        for steady in (False, True)[: 1 + entry.build.steady]:
            for workers in (1, 2):
                # Of the steady ones the first, third, ...: by one worker and by two in turn.
                sampled = (number % 2 if not steady else once_steady // 2 % 2) == workers - 1
                sampled &= not steady or once_steady % 2 == 1
                mark = pytest.mark.slow if sampled else pytest.mark.harden
                mode = "steady" if steady else "generations"
                found.append(pytest.param(name, steady, workers, marks=mark, id=f"{name}-{mode}-{workers}"))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = evolve_world.build_world(tmp_path_factory.mktemp("every"))
    evolve_world.build_adapter(folder)
    return folder


def study_of(world: Path, name: str, steady: bool) -> Path:
    entry = strategies()[name]
    options = {key: size for key, size in SMALL.items() if key in entry.build.Options.model_fields}
    data = {
        **COMMON,
        **VARIED[kind_for(entry)],
        "strategy": {"name": name, "options": options},
        "budget": {"evaluations": BUDGET},
        "steady": steady,
    }
    if getattr(entry.build, "trains", False):
        data["vary"] = {"kind": kind_for(entry), "learn": {"steps": 1, "batch": 2}}
    path = world / f"{name}-{'steady' if steady else 'generations'}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def done(out: Path) -> int:
    try:
        return take_snapshot(out).done
    except InputError:
        return 0


def on_record(out: Path) -> tuple[dict[str, Verdict], list[int]]:
    """Verdicts by candidate, and the generations that were told, in that order."""
    with StudyStore(out / "study.sqlite") as store:
        return {candidate.id: verdict for candidate, verdict in store.finished()}, store.told_order()


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        # The state follows the name, which is in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outcome(out: Path) -> dict[str, Any]:
    """What a run comes to, without times and paths."""
    best = json.loads((out / "best.json").read_text())
    return {
        "history": fakes.history(out),
        "best": {key: value for key, value in best.items() if key not in ("cost", "ledger")},
        "collection": read_collection(out),
    }


@pytest.mark.parametrize(("name", "steady", "workers"), cases())
def test_killed_once_the_same_command_ends_as_if_undisturbed(
    world: Path, tmp_path: Path, name: str, steady: bool, workers: int
) -> None:
    study, out = study_of(world, name, steady), tmp_path / "killed"
    command = [sys.executable, "-m", "genepool", "evolve", str(study), "--out", str(out), "--workers", str(workers)]
    command += ["--ledger", str(tmp_path / "killed.sqlite"), "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as killed:
        while done(out) < KILLED_AFTER and killed.poll() is None:
            time.sleep(0.005)
        orphans = children(killed.pid)
        killed.kill()
        said = killed.communicate()[1].decode()
    assert killed.returncode == -signal.SIGKILL, f"it ended by itself: {said}"
    before, told = on_record(out)
    assert KILLED_AFTER <= len(before) < BUDGET
    assert not (out / "best.json").exists()
    assert len(orphans) >= workers or workers == 1 or not PROC

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert not any(map(alive, orphans)), "workers of a killed driver end by themselves"
    after, told_after = on_record(out)
    assert before.items() <= after.items()
    assert told_after[: len(told)] == told
    lines = fakes.history(out)
    assert {line["id"] for line in lines} == set(after)
    assert len(lines) == len(after) == take_snapshot(out).done == BUDGET
    assert [(line["generation"], line["index"]) for line in lines] == sorted(
        {(line["generation"], line["index"]) for line in lines}
    )
    if steady and workers > 1:
        # Who is through first decides what is asked next, so that no two runs are the same.
        return
    run_study(study, tmp_path / "whole", ledger=tmp_path / "whole.sqlite")
    assert outcome(out) == outcome(tmp_path / "whole")
    files = {path.name for path in (tmp_path / "whole" / "winner").glob("*.safetensors")}
    assert files == {path.name for path in (out / "winner").glob("*.safetensors")}
    for file in files:
        mine, theirs = load_file(out / "winner" / file), load_file(tmp_path / "whole" / "winner" / file)
        assert mine.keys() == theirs.keys()
        assert all(tensor.equal(theirs[key]) for key, tensor in mine.items())
