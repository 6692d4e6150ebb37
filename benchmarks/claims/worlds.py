"""One trained testbed of one seed: its models held in memory, merged and asked there, every score remembered on disk.

A score is kept under what it depends on: the recipe, the models' fingerprints, the examples, and the code that merges
and asks. So a run that was stopped goes on, and a changed method is asked again while all others are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.stamp import stamp
from genepool.merging import Recipe, find_method, plan_merge
from genepool.tasks import Ledger, OutcomeTable, Task, evaluate, load_tasks, open_model
from genepool.testbed import Testbed, build
from genepool.weights import TensorWeights, Weights, load_resident, open_weights

CACHE = Path(__file__).parent.parent.parent / ".cache" / "claims"
GENERIC = "generic"
Scores = dict[str, np.ndarray]
#: The testbed of populations, which `breeding` opens.
BREEDING = "breeding"
# The kinds of model that testbeds hold, by the testbed; causal language models where nothing is said.
_ASKED = {"digits": "digits", "sentences": "sequence_classifier"}
# Examples of each task that settings are chosen on, and that results are told on.
LIMITS = {"valid": 256, "test": 512}


@dataclass(frozen=True)
class BedKind:
    """One testbed, whatever its seed.

    Attributes:
        name: in tables and on the command line.
        words: what it is, for the page.
        options: of `genepool.testbed.build`.
    """

    name: str
    words: str
    options: Mapping[str, Any]


KINDS = {
    kind.name: kind
    for kind in (
        BedKind(
            "digits",
            "a small vision transformer and eight specialists on rearranged digits. The base solves each task in part",
            {"bed": "digits"},
        ),
        BedKind("text", "a small Llama and four specialists on strings. The base solves each task in part", {}),
        BedKind(
            "acquire",
            "the hard control. A Llama of the tiny size with four specialists that learned something new and moved far",
            {"regime": "acquire", "tiny": True},
        ),
        BedKind(
            BREEDING,
            "a Llama of the tiny size and two specialists for each of four skills. The second one was trained on other "
            "data. Searches evaluate 400 candidates on 200 validation examples of each skill",
            {"tiny": True},
        ),
    )
}


class World:
    """One testbed of one seed.

    Args:
        kind: the name of one of `KINDS`, or another kind of testbed.
        seed: of the testbed, and of every merge that draws.

    Attributes:
        kind, seed: which.
        bed: as built.
        skills: the specialists' names, in order; recipes name the models so, and the base "base".
    """

    def __init__(self, kind: str | BedKind, seed: int) -> None:
        found = KINDS[kind] if isinstance(kind, str) else kind
        self.kind, self.seed = found.name, seed
        place = f"{self.kind}-{seed}"
        self.bed: Testbed = build(CACHE / "beds" / place, seed=seed, overwrite=True, **found.options)
        self.skills = tuple(self.bed.full)
        base = open_weights(self.bed.base)
        held = load_resident(base)
        self.sources: dict[str, Weights] = {"base": held} | {
            skill: load_resident(open_weights(path, base=base), (base, held)) for skill, path in self.bed.full.items()
        }
        self.tasks = {task.name: task for task in load_tasks(self.bed.tasks)}
        self._ask = _asking(held)
        asked = _ASKED.get(found.options.get("bed", "text"), "causal_lm")
        self._asking_code = ("genepool.tasks.evaluate", f"genepool.tasks.models.{asked}")
        self._memory = _Memory(CACHE / "scores" / f"{place}.jsonl")

    def recipe(self, method: str, skills: Sequence[str], parameters: Mapping[str, Any], **more: Any) -> Recipe:
        """A recipe over some of the specialists; `more` are further keys of a recipe."""
        base = None if find_method(method).base == "unused" else "base"
        return Recipe(
            method=method, base=base, models=list(skills), parameters=dict(parameters), seed=self.seed, **more
        )

    def specialist(self, skill: str) -> Recipe:
        """A specialist as it is."""
        return self.recipe("linear", [skill], {})

    def base(self) -> Recipe:
        """The base as it is."""
        return Recipe(method="linear", models=["base"])

    def scores(self, recipe: Recipe, tasks: Sequence[str], split: str) -> Scores:
        """Task -> one score per example of the split."""
        plan = plan_merge(recipe, self.sources)
        method = type(plan.method).__module__
        code = stamp(method, "genepool.merging.planning", *self._asking_code)
        return self._remembered(plan.fingerprint(), code, plan.weights, tasks, split)

    def scores_of(self, weights: Callable[[], Weights], told_by: str, tasks: Sequence[str], split: str) -> Scores:
        """The same for weights made in another way than by a recipe.

        Args:
            weights: makes them, when they are not remembered.
            told_by: everything they depend on, as text.
        """
        return self._remembered(told_by, stamp(*self._asking_code), weights, tasks, split)

    def _remembered(
        self, identity: str, code: str, weights: Callable[[], Weights], tasks: Sequence[str], split: str
    ) -> Scores:
        keys = {task: self._key(identity, code, task, split) for task in tasks}
        missing = [self.tasks[task] for task, key in keys.items() if key not in self._memory.rows]
        if missing:
            merged = weights()
            # Asked tensor by tensor a merge would be computed once for the model and once for each look at it.
            still = TensorWeights(
                {name: merged.read(name) for name in merged.names()},
                folder=self.sources["base"].folder,
                config=self.sources["base"].config,
                fingerprint=identity,
            )
            table = self._ask(still, missing, split)
            for task in table.tasks:
                self._memory.add(keys[task], table.scores(table.models[0], task))
        return {task: self._memory.rows[key] for task, key in keys.items()}

    def _key(self, identity: str, code: str, task: str, split: str) -> str:
        examples = self.tasks[task].examples(split)[: LIMITS[split]]
        parts = [identity, code, self.tasks[task].asking, *(example.key for example in examples)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


Asking = Callable[[Weights, Sequence[Task], str], OutcomeTable]


def _asking(base: Weights) -> Asking:
    model = open_model(base).load()

    def asking(weights: Weights, tasks: Sequence[Task], split: str) -> OutcomeTable:
        model.assign(weights)
        with Ledger(":memory:") as ledger:
            return evaluate([model], tasks, split=split, limit=LIMITS[split], ledger=ledger, keep_outputs=False)

    return asking


class _Memory:
    """Scores by key, one JSON line each; a line cut off by a kill is forgotten."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows: dict[str, np.ndarray] = {}
        if path.is_file():
            text = path.read_text()
            if text and not text.endswith("\n"):
                # What is added next must not be glued to the line that was cut off.
                path.write_text(text + "\n")
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self.rows[row["key"]] = np.array([float(mark) for mark in row["right"]])

    def add(self, key: str, scores: np.ndarray) -> None:
        """Remembers scores that are 0 or 1 each."""
        if not np.isin(scores, (0.0, 1.0)).all():
            raise ValueError("only right or wrong can be remembered")
        self.rows[key] = scores
        with open(self.path, "a") as file:
            file.write(json.dumps({"key": key, "right": "".join("1" if s else "0" for s in scores)}) + "\n")
