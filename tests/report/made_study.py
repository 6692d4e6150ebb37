"""A finished study without a model: its folder, tasks and ledger, with outcomes drawn at given rates.

What `genepool evolve` would leave behind, in seconds less; the end-to-end test holds it against the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genepool.evolution.store import StudyStore
from genepool.tasks import Ledger, Outcome, load_tasks

SKILLS = ("sort", "upper")
TASKS = ("sort", "upper", "generic")
COUNTS = {"valid": 60, "test": 80}
#: Share solved by task, for everything a page shows.
RATES: dict[str, tuple[float, float, float]] = {
    "base": (0.2, 0.3, 0.9),
    "sort": (0.95, 0.2, 0.8),
    "upper": (0.1, 0.9, 0.85),
    "average": (0.5, 0.6, 0.9),
    "ties": (0.7, 0.7, 0.9),
    "cma_es": (0.9, 0.85, 0.9),
    "random_search": (0.8, 0.75, 0.85),
}


def fingerprint(name: str, split: str = "test") -> str:
    """A winner's fingerprint differs between the candidate in memory and the checkpoint on the disk."""
    suffix = "-candidate" if split == "valid" and name in ("cma_es", "random_search") else ""
    return (name + suffix).encode().hex().ljust(64, "0")[:64]


def make_tasks(folder: Path) -> None:
    for task in TASKS:
        (folder / task).mkdir(parents=True)
        for split, count in COUNTS.items():
            lines = [
                {"id": f"{task}-{split}-{i}", "prompt": f"<{task}> {split} {i}: ", "answer": f"answer {i}"}
                for i in range(count)
            ]
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_ledger(path: Path, tasks: Path, models: Mapping[str, tuple[float, float, float]] = RATES) -> None:
    rng = np.random.default_rng(5)
    with Ledger(path) as ledger:
        for name, rates in models.items():
            for task in load_tasks(tasks, TASKS):
                for split in COUNTS:
                    outcomes = []
                    for example in task.examples(split):
                        solved = bool(rng.random() < rates[TASKS.index(task.name)])
                        said = example.answer if solved else f"{name} does not know"
                        outcomes.append((example.key, example.id, Outcome(float(solved), said)))
                    ledger.record(fingerprint(name, split), name, task.name, task.asking, outcomes)


def make_study(world: Path, strategy: str = "cma_es", *, count: int = 24, finished: bool = True) -> Path:
    """The folder of one study; `world` has the tasks and the ledger."""
    out = world / f"run-{strategy}"
    out.mkdir()
    genes = (
        [
            f"{skill}.weight[layers {layers}, {role}]"
            for skill in SKILLS
            for layers in ("0-1", "2-3")
            for role in ("attention",)
        ]
        + [f"{skill}.weight[layers {layers}]" for skill in SKILLS for layers in ("0-1", "2-3")]
        + ["lambda"]
    )
    study = {
        "study": 1,
        "base": str(world / "base"),
        "skills": [{"name": skill, "model": str(world / "full" / skill)} for skill in SKILLS],
        "method": "ties",
        "search": {
            "weight": {"low": 0.0, "high": 1.5, "per": {"layer_groups": 2, "roles": ["attention"]}},
            "lambda": {"low": 0.5, "high": 1.5},
        },
        "tasks": {"dir": str(world / "tasks"), "names": list(TASKS), "valid": 40, "test": 70},
        "strategy": {"name": strategy},
        "budget": {"evaluations": count},
        "objective": {"worst": 0.25},
        "seed": 7,
    }
    (out / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    rng = np.random.default_rng(len(strategy))
    lines = []
    for i in range(count if finished else count // 2):
        genome = {gene: round(float(rng.uniform(0.5, 1.5)), 4) for gene in genes}
        fitness = None if i == 3 else round(0.4 + 0.4 * i / count + float(rng.normal(0, 0.02)), 4)
        lines.append(
            {
                "strategy": strategy,
                "id": f"{i:064x}",
                "generation": i // 6,
                "index": i % 6,
                "genome": genome,
                "fitness": fitness,
                "valid": {} if fitness is None else dict.fromkeys(TASKS, fitness),
                "seconds": 0.5,
                "cached": i == 5,
                "fingerprint": "" if fitness is None else f"{i:064x}",
            }
        )
    top = max((line for line in lines if line["fitness"] is not None), key=lambda line: line["fitness"])
    top["fingerprint"] = fingerprint(strategy, "valid")
    (out / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prints = {name: fingerprint(name) for name in ("base", *SKILLS)}
    with StudyStore(out / "study.sqlite") as store:
        inputs = {"base": prints["base"], "models": {skill: prints[skill] for skill in SKILLS}}
        store.begin({"inputs": inputs}, {})
        store.set("seconds", 33.5)
    if finished:
        (out / "best.json").write_text(json.dumps(_best(world, strategy, top, prints, len(lines))))
    return out


def _best(world: Path, strategy: str, top: dict[str, Any], prints: dict[str, str], count: int) -> dict[str, Any]:
    rows = [
        {"name": name, "kind": kind, "fingerprint": print_, "test": _recorded(rates)}
        for name, kind, print_, rates in [
            ("base", "base", prints["base"], RATES["base"]),
            *((skill, "parent", prints[skill], RATES[skill]) for skill in SKILLS),
            ("winner", "winner", fingerprint(strategy), RATES[strategy]),
        ]
    ]
    recipe = {"genepool": 1, "method": "ties", "base": str(world / "base"), "models": [{"model": "sort <b>"}]}
    return {
        "schema": 1,
        "strategy": strategy,
        "genome": top["genome"],
        "fitness": top["fitness"],
        "fingerprint": fingerprint(strategy),
        "valid": top["valid"],
        "test": {task: score["mean"] for task, score in rows[-1]["test"].items()},
        "evaluations": count,
        "seed": 7,
        "finalists": [
            {"id": top["id"], "generation": 3, "index": 1, "searched": top["fitness"], "fitness": 0.8},
            {"id": "f" * 64, "generation": 4, "index": -1, "searched": None, "fitness": 0.7},
        ],
        "recipe": recipe,
        "models": rows,
        "tasks_dir": str(world / "tasks"),
        "ledger": str(world / "ledger.sqlite"),
        "cost": {"seconds": 12.0, "cpu_seconds": 11.0, "examples": 2760},
    }


def _recorded(rates: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    return {
        task: {"n": 70, "mean": rate, "lo": rate - 0.05, "hi": rate + 0.05}
        for task, rate in zip(TASKS, rates, strict=True)
    }
