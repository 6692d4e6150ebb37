"""A testbed with everything that an arm needs of it: composers are given its skills and examples, and models are asked.

Uses the testbeds of `benchmarks.claims`, where static merges are planned and their scores remembered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.claims.worlds import GENERIC, KINDS, LIMITS, BedKind, Scores, World
from benchmarks.composition.cells import Cell
from genepool.composition import Composer, Composition, SkillSet, make_composer, open_skills
from genepool.composition import World as Given
from genepool.tasks import Ledger, Model, Task, evaluate, open_model
from genepool.tasks.models import Source
from genepool.testbed.pairs import pairs_of
from genepool.testbed.skills import DEFAULT_SKILLS, SKILLS

#: The small testbeds, on which everything is measured unless it is said otherwise.
TINY = (
    BedKind("digits-tiny", "the digits testbed with its first four specialists", {"bed": "digits", "tiny": True}),
    BedKind("text-tiny", "the text testbed with four specialists and four adapters", {"tiny": True}),
)
#: Testbeds that each ask one further question, with one number of examples.
FURTHER = (
    BedKind(
        "untagged-tiny",
        "the text testbed with prompts that name no skill, which must be inferred from two worked examples in the "
        "prompt",
        {"bed": "untagged", "tiny": True},
    ),
    BedKind(
        "pairs-tiny",
        "the text testbed with tasks of two skills in turn, which no specialist was trained on",
        {"bed": "pairs", "tiny": True},
    ),
    BedKind(
        "sentences",
        "a real encoder of sentences, all-MiniLM-L6-v2 with 22.6 million entries, and a specialist for each of three "
        "ways of classifying real texts, at default size",
        {"bed": "sentences"},
    ),
)
SMALL = (*TINY, *FURTHER)
UNTAGGED, PAIRS, SENTENCES = (kind.name for kind in FURTHER)
#: The tasks of two skills in turn, by the two that each is made of.
PAIR_TASKS = {
    pair.name: tuple(part.name for part in pair.parts) for pair in pairs_of([SKILLS[name] for name in DEFAULT_SKILLS])
}
#: Skills of a small testbed that are composed, the first ones.
FEW = 4
#: The testbeds of the other claims.
FULL = (KINDS["digits"], KINDS["text"])
DIGITS, TEXT = (TINY[0].name, FULL[0].name), (TINY[1].name, FULL[1].name)

_Made = TypeVar("_Made")


class Bed(World):
    """One trained testbed of one seed. The seed also draws the examples that are given, and every draw of a fit."""

    def __init__(self, kind: BedKind, seed: int) -> None:
        super().__init__(kind, seed)
        if kind in SMALL:
            self.skills = self.skills[:FEW]

    @cached_property
    def base_model(self) -> Model:
        """The base in memory; nobody changes it."""
        return open_model(self.sources["base"]).load()

    @property
    def pairs(self) -> tuple[str, ...]:
        """The tasks of two skills in turn; none on most testbeds."""
        return tuple(task for task in self.tasks if task in PAIR_TASKS)

    @property
    def judged(self) -> tuple[str, ...]:
        """The tasks by whose mean something is chosen: those of two skills in turn where there are any, else all
        skills' own.
        """
        return self.pairs or self.skills

    @property
    def asked_tasks(self) -> tuple[str, ...]:
        """The tasks of all skills, those of two in turn, and the general one last."""
        return (*self.skills, *self.pairs, GENERIC)

    def paths(self, adapters: bool) -> dict[str, Path]:
        """The folders of the specialists, or of the adapters, by skill."""
        return self.bed.lora if adapters else self.bed.full

    def opened(self, composer: Composer[Any], *, adapters: bool = False, only: Sequence[str] = ()) -> SkillSet:
        """Skills as a composer wants them.

        Args:
            composer: whose skills they will be.
            adapters: the adapters instead of the fine-tunes.
            only: these skills; all when empty.
        """
        paths = self.paths(adapters)
        # A composer that can do without skills makes modules of its own.
        own = not composer.skills[0] and not adapters
        named = [] if own else [str(paths[skill]) for skill in only or self.skills]
        return open_skills(str(self.bed.base), named, members=composer.members)

    def given(self, skills: SkillSet, examples: int, tasks: Sequence[str] = ()) -> Given:
        """What a composer learns from.

        Args:
            skills: as opened.
            examples: of the training split of each task; nothing at all when 0.
            tasks: these; those of all skills when empty.
        """
        asked = [self.tasks[task] for task in tasks or self.skills] if examples else []
        return Given(skills, asked, examples=max(1, examples), seed=self.seed)

    def fitted(
        self,
        method: str,
        options: Mapping[str, Any],
        examples: int,
        *,
        adapters: bool = False,
        only: Sequence[str] = (),
        tasks: Sequence[str] = (),
    ) -> Composition:
        """What a composer makes of the skills; for the arguments see `opened` and `given`."""
        composer = make_composer(method, options)
        skills = self.opened(composer, adapters=adapters, only=only)
        return composer.fit(self.given(skills, examples if composer.needs != "nothing" else 0, tasks))

    def ask(self, model: Source, tasks: Sequence[str] = (), split: str = "test") -> Scores:
        """Marks of a model: task -> 0 or 1 for each example, all tasks when none is named."""
        asked: list[Task] = [self.tasks[task] for task in tasks or self.asked_tasks]
        with Ledger(":memory:") as ledger:
            table = evaluate([model], asked, split=split, limit=LIMITS[split], ledger=ledger, keep_outputs=False)
        return {task: table.scores(table.models[0], task) for task in table.tasks}

    def cell(self, make: Callable[[], Source], said: Mapping[str, Any] | None = None) -> Cell:
        """Makes a model, and asks it everything."""
        model, seconds = timed(make)
        return Cell(self.ask(model), seconds, said or {})


def timed(make: Callable[[], _Made]) -> tuple[_Made, float]:
    """What a call gives, and its seconds of the processor."""
    began = time.process_time()
    return make(), time.process_time() - began
