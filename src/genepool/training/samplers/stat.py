"""STAT: examples for the skills that are missing where the model fails, chosen from the data or written anew."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from genepool.schema import Strict
from genepool.training.generating import GeneratingSampler, MakingOptions, RoundMaking, Wanted, skills_of
from genepool.training.made_examples import MadeExample
from genepool.training.makers import WriterMaker

# Of a missing skill of a question: examples that are chosen, and that are made (the authors' page).
_CHOSEN, _MADE = 5, 2


class StatOptions(MakingOptions):
    """Options of STAT."""

    examples: int = Field(
        default=9500, ge=1, le=10**6, description="Examples of all rounds together, at most (authors: 9,500)."
    )
    make: Literal["select", "write"] = Field(
        default="select",
        description="select: training examples that need a missing skill, which so come oftener (STAT-Sel); write: new "
        "ones, by the templates or the writer (STAT-Syn).",
    )
    hard: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="A validation example is hard where the model's score on it is below this (ours; the authors ask a "
        "reward model for every step of an answer).",
    )
    questions: int = Field(
        default=500, ge=1, le=10**6, description="Hard examples that are looked at, at most (authors: 500)."
    )
    missing: int = Field(default=3, ge=1, le=100, description="Missing skills of one, at most (authors: 2 or 3).")
    each: int | None = Field(
        default=None,
        ge=1,
        le=10**4,
        description="Examples for each missing skill of each; null: 5 that are selected, 2 that are written (authors).",
    )
    blame: str = Field(
        default="Problem: {prompt}\nRight answer: {answer}\nStudent's answer: {written}\nSkills: {skills}\n"
        "Skills that the student lacks:",
        description="What asks the writer which skills are missing, with {written}, and {prompt}, {answer}, {skills}.",
    )

    @field_validator("blame")
    @classmethod
    def _shows_written(cls, value: str) -> str:
        if "{written}" not in value:
            raise ValueError("`blame` must contain {written}")
        return value


class Stat(GeneratingSampler):
    """For each hard validation example, its missing skills; for each of these, some examples that need it.

    The writer is the teacher: it reads the question, the right answer and the model's, and names the missing skills
    among those that the training examples are tagged with. Without one, the missing skills of an example are those of
    its tags whose validation examples the model solves least. How often a skill is missing is the profile that the
    record keeps. What is selected stands in the pool as often as it was selected.
    """

    name = "stat"
    source = "He et al., Skill-Targeted Adaptive Training (arXiv:2510.10023); counts as on the authors' page"
    when = "Training on the same data no longer helps, and tags say which skills an example needs."
    Options: ClassVar[type[Strict]] = StatOptions
    options: StatOptions

    @property
    def makes(self) -> bool:
        return self.options.make == "write"

    def make(self, making: RoundMaking) -> list[MadeExample]:
        wanted = self.plan(making)
        # A random part of what was wanted is what there is room for, as the authors draw it.
        order = making.generator("part").permutation(len(wanted))[: self.size(making)]
        chosen = [wanted[int(at)] for at in sorted(order.tolist())]
        making.count("wanted", len(chosen))
        return making.made(chosen) if self.makes else self._selected(chosen, making)

    def plan(self, making: RoundMaking) -> list[Wanted]:
        places = self.errors(making, self.options.hard)
        order = making.generator("questions").permutation(len(places))[: self.options.questions]
        looked_at = sorted(places[int(at)] for at in order)
        lacks = (
            self._named(looked_at, making) if isinstance(making.maker, WriterMaker) else self._tagged(looked_at, making)
        )
        profile = Counter(skill for own in lacks for skill in own)
        making.counts["missing"] = dict(sorted(profile.items()))
        making.counts["hard"] = len(places)
        each = self.options.each or (_MADE if self.makes else _CHOSEN)
        return [
            Wanted((skill,), said={"question": making.seen.lessons[place].example.key, "missing": skill})
            for place, own in zip(looked_at, lacks, strict=True)
            for skill in own
            for _ in range(each)
        ]

    def _tagged(self, places: Sequence[int], making: RoundMaking) -> list[list[str]]:
        """Of each example those of its tags that the model is worst at."""
        scores = making.seen.by_skill
        return [
            sorted(skills_of(making.seen.lessons[place]), key=lambda skill: (scores[skill][0], skill))[
                : self.options.missing
            ]
            for place in places
        ]

    def _named(self, places: Sequence[int], making: RoundMaking) -> list[list[str]]:
        """Of each example those skills that the writer names, in the order of their names in what it wrote."""
        maker = making.maker
        assert isinstance(maker, WriterMaker)
        able = making.tokens // self.options.question_tokens
        asked = []
        for place in places[:able]:
            example = making.seen.lessons[place].example
            texts = {"skills": ", ".join(maker.skills), "written": making.seen.written[place], "answer": example.answer}
            text = self.options.blame
            for key, value in {**texts, "prompt": example.prompt}.items():
                text = text.replace(f"{{{key}}}", value)
            asked.append(text)
        before = making.counts["tokens"]
        replies = maker.write(asked, making, "blame", self.options.question_tokens, ("\n\n",)) if asked else []
        making.tokens -= making.counts["tokens"] - before
        found = []
        names = {skill.casefold(): skill for skill in maker.skills}
        # The longest first: one name may begin as another does.
        longest = sorted(names, key=len, reverse=True)
        whole = re.compile("|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest))
        for reply in replies:
            named = dict.fromkeys(names[one] for one in whole.findall(reply.casefold()))
            found.append(list(named)[: self.options.missing])
        if unnamed := sum(not own for own in found) + len(places) - len(found):
            making.count("unnamed", unnamed)
        return found + [[] for _ in places[len(found) :]]

    def _selected(self, wanted: Sequence[Wanted], making: RoundMaking) -> list[MadeExample]:
        """Training examples that need the wanted skills: of one question different ones, where there are enough."""
        pools: dict[str, list[int]] = {}
        for at, lesson in enumerate(making.stored):
            for skill in skills_of(lesson):
                pools.setdefault(skill, []).append(at)
        orders: dict[tuple[str, str], list[int]] = {}
        found = []
        for one in wanted:
            (skill,), question = one.skills, str(one.said["question"])
            if not (pool := pools.get(skill)):
                # A skill of validation examples alone.
                making.count("failed")
                continue
            if not orders.get((question, skill)):
                orders[question, skill] = making.generator("select", question, skill).permutation(pool).tolist()
            lesson = making.stored[orders[question, skill].pop()]
            example = replace(lesson.example, rejected=(), where="")
            found.append(MadeExample(lesson.task.name, example, {"by": "stored", "skills": [skill], **one.said}))
        return found
