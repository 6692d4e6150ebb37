"""Samplers that have examples made for their training, in rounds, by what the model does on validation examples.

What a `GeneratingSampler` is, what it is given and what it gives back. One file of `samplers/` is one of them. A round
belongs to (seed, number of the round) and to the model before its first step; `run` keeps it in the record.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field, field_validator

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.made_examples import Forbidden, MadeExample, Round, shown
from genepool.training.samplers import Arms, Sampler, SamplerNeeds, SamplerOptions

if TYPE_CHECKING:
    import numpy as np

    from genepool.schema import Strict
    from genepool.tasks import Task
    from genepool.tasks.ledger import Outcome
    from genepool.training.examples import TrainingExample
    from genepool.training.journal import ExampleRow
    from genepool.training.makers import Maker


class MakingOptions(SamplerOptions):
    """Options of a sampler that has examples made."""

    every: int | None = Field(
        default=None,
        ge=1,
        le=10**7,
        description="Steps between two rounds of making examples; null: one round, before the first step.",
    )
    examples: int = Field(
        default=1000, ge=1, le=10**6, description="Examples of all rounds together, at most: the budget."
    )
    round: int | None = Field(
        default=None, ge=1, le=10**6, description="Examples wanted in a round, at most; null: the rest of the budget."
    )
    data: float = Field(
        default=0.0, ge=0, lt=1, description="Part of every step that is of the tasks' own training examples."
    )
    writer: str | None = Field(
        default=None,
        description="A causal language model that writes new questions and answers them; null: the templates of the "
        "tasks make examples, whose answers are right.",
    )
    tokens: int = Field(
        default=200_000, ge=1, le=10**10, description="Tokens that the writer generates in all, at most."
    )
    ask: str = Field(
        default="Write one new problem that needs these skills: {skills}.\n\n{examples}\n\nNew problem: ",
        description="What asks the writer for a question, with {skills}, and {examples} for some that need them.",
    )
    shown: int = Field(default=3, ge=0, le=100, description="Examples that are shown to the writer (STAT: 3).")
    question_tokens: int = Field(default=128, ge=1, le=10**5, description="Tokens of a question that is written.")
    votes: int = Field(default=3, ge=1, le=1000, description="Answers that the writer gives to its question (STAT: 3).")
    agree: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="A question is kept where this many of them are alike, and that is its answer (STAT: 2).",
    )
    check: str | None = Field(
        default=None,
        description="Also asks the writer, `votes` times, whether a question is sound, with {prompt}; it is kept where "
        "most replies begin with yes. null: not asked.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which the writer's tokens are drawn.")

    @field_validator("ask")
    @classmethod
    def _names(cls, value: str) -> str:
        if "{skills}" not in value:
            raise ValueError("`ask` must contain {skills}")
        return value

    @field_validator("check")
    @classmethod
    def _shows(cls, value: str | None) -> str | None:
        if value is not None and "{prompt}" not in value:
            raise ValueError("`check` must contain {prompt}")
        return value


@dataclass(frozen=True)
class Wanted:
    """An example that a sampler wants.

    Attributes:
        skills: that it needs, all of them.
        task: whose it is; empty: any task that can.
        cell: a part of what the task's template draws, by its name; empty: all of it.
        like: examples that a writer is shown; empty: some of these skills.
        kind: what kind of question a writer is asked for; empty: any.
        called: what a writer is told that it needs; empty: the skills.
        exact: a template's mix combines these skills alone, in this order; else they are among those that it draws.
        said: what the record says of it beside that, as plain data.
    """

    skills: tuple[str, ...]
    task: str = ""
    cell: str = ""
    like: tuple[TrainingExample, ...] = ()
    kind: str = ""
    called: str = ""
    exact: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)


class Student(Protocol):
    """The model that is trained, as it is before a step."""

    def outcomes(self, lessons: Sequence[TrainingExample]) -> list[Outcome]:
        """How it does on examples, as their tasks ask and judge them; what it wrote is kept."""

    def fits(self, lesson: TrainingExample) -> bool:
        """Whether it can read an example and learn its answer."""

    def drawn(
        self, lessons: Sequence[TrainingExample], count: int, temperature: float, name: str
    ) -> tuple[list[list[str]], int]:
        """Answers that it draws, `count` to each prompt, by (seed, name, prompt, number); and their tokens."""


@dataclass(frozen=True)
class SkillReport:
    """How the model did on the validation examples.

    Attributes:
        lessons: the examples.
        scores: of each, from 0 to 1.
        written: what it wrote to each; empty where nothing was kept.
    """

    lessons: tuple[TrainingExample, ...]
    scores: tuple[float, ...]
    written: tuple[str, ...]

    @cached_property
    def by_skill(self) -> dict[str, tuple[float, int]]:
        """By skill: the mean score of the examples that need it, and how many these are."""
        found: dict[str, list[float]] = {}
        for lesson, score in zip(self.lessons, self.scores, strict=True):
            for skill in skills_of(lesson):
                found.setdefault(skill, []).append(score)
        return {skill: (sum(own) / len(own), len(own)) for skill, own in sorted(found.items())}

    def hard(self, below: float = 1.0) -> list[int]:
        """The places of the examples whose score is below a value."""
        return [at for at, score in enumerate(self.scores) if score < below]

    def to_dict(self) -> dict[str, list[float]]:
        """By skill the mean score and the count, as plain data."""
        return {skill: [mean, count] for skill, (mean, count) in self.by_skill.items()}


@dataclass
class RoundMaking:
    """What a sampler is given to make a round.

    Attributes:
        number: of the round.
        seed: of the training.
        tasks: what is trained on, by name.
        stored: their training examples.
        student: the model.
        report: how it did on the validation examples; shuffled among them for the control; None where not asked.
        maker: makes examples; None where the sampler needs nobody.
        forbidden: prompts that none may have.
        used: plain prompts of the examples that were made before.
        room: examples that may still be made.
        tokens: that may still be generated.
        counts: what happens is counted here, by the names of `Round.told`.
    """

    number: int
    seed: int
    tasks: Mapping[str, Task]
    stored: Sequence[TrainingExample]
    student: Student
    report: SkillReport | None
    maker: Maker | None
    forbidden: Forbidden
    used: set[str]
    room: int
    tokens: int
    counts: dict[str, Any] = field(default_factory=lambda: {"wanted": 0, "tokens": 0})

    @property
    def seen(self) -> SkillReport:
        """The report, where one was asked for."""
        assert self.report is not None
        return self.report

    def lesson(self, one: MadeExample) -> TrainingExample:
        """A made example with its task."""
        from genepool.training.examples import TrainingExample

        return TrainingExample(self.tasks[one.task], one.example)

    def made(self, wanted: Sequence[Wanted]) -> list[MadeExample]:
        """What is wanted, as far as it can be made; what cannot is counted."""
        assert self.maker is not None
        return self.maker.make(wanted, self)

    def count(self, name: str, more: int = 1) -> None:
        """Counts something that happened."""
        self.counts[name] = self.counts.get(name, 0) + more

    def generator(self, *names: str | int) -> np.random.Generator:
        """Draws of this round."""
        return numpy_generator(self.seed, "making", self.number, *names)


class GeneratingSampler(Sampler):
    """Says which examples are made for the next steps.

    The examples of a step are the next ones of shuffled rounds of all that was made so far.

    Class attributes:
        asks: whether it looks at how the model does on the validation examples.
    """

    alone = True
    needs: ClassVar[SamplerNeeds] = "answers"
    asks: ClassVar[bool] = True
    Options: ClassVar[type[Strict]] = MakingOptions
    options: MakingOptions

    def __init__(self, options: Strict | None, arms: Arms) -> None:
        super().__init__(options, arms)
        if self.options.agree > self.options.votes:
            raise InputError(
                f"{self.options.agree} is above `votes`, {self.options.votes}",
                where="sampler_options.agree",
                fix="Give a smaller one, or more votes",
            )
        self.rounds: list[Round] = []

    def due(self, step: int) -> int:
        """How many rounds there are before a step, counted from 0, is taken."""
        return 1 if self.options.every is None else step // self.options.every + 1

    def check_skills(self, stored: Sequence[TrainingExample]) -> None:
        """Refuses tasks whose examples do not say what the sampler goes by; called before anything runs.

        Args:
            stored: their training examples.

        Raises:
            InputError: naming what is missing.
        """
        return

    @property
    def attempts(self) -> bool:
        """Whether the model is asked what was made, before it learns from it: `attempt` in the record."""
        return False

    @property
    def makes(self) -> bool:
        """Whether it needs somebody who makes examples."""
        return True

    @property
    def room(self) -> int:
        """How many more examples may be made."""
        return self.options.examples - sum(len(one.examples) for one in self.rounds)

    @property
    def made(self) -> list[MadeExample]:
        """All examples that were made so far."""
        return [example for one in self.rounds for example in one.examples]

    @abstractmethod
    def plan(self, making: RoundMaking) -> list[Wanted]:
        """What shall be made in a round, the most wanted first.

        Raises:
            InputError: there is nothing to go by.
        """

    def make(self, making: RoundMaking) -> list[MadeExample]:
        """What is made in a round; `making.counts` says what else there is to tell."""
        wanted = self.plan(making)[: self.size(making)]
        making.count("wanted", len(wanted))
        return making.made(wanted)

    def size(self, making: RoundMaking) -> int:
        """How many examples a round makes, at most."""
        return min(making.room, self.options.round or making.room)

    def errors(self, making: RoundMaking, below: float = 1.0) -> list[int]:
        """The places of the validation examples that the model fails; later, there may be none.

        Raises:
            InputError: there never was one, so there is nothing to go by.
        """
        found = making.seen.hard(below)
        if not found and not self.made:
            raise InputError(
                f"the model fails none of {len(making.seen.scores)} validation examples, so nothing is missing",
                where=f"sampler {self.name}",
                fix="Give harder validation examples, or leave the sampler out",
            )
        return found

    def take(self, found: Round) -> None:
        """Takes in a round that was made, or that is on record."""
        self.rounds.append(found)

    def chosen(self, step: int, size: int) -> list[MadeExample]:
        """The made examples of a step; a part `data` of it is left to others.

        Raises:
            InputError: none were made.
        """
        pool = self.made
        # A part below 1 leaves room for one.
        count = max(1, size - round(self.options.data * size))
        if not pool:
            told = shown(self.rounds[-1])
            why = f" ({told['refused']})" if told["refused"] else ""
            raise InputError(
                f"none of {told['wanted']} examples that were wanted could be made{why}",
                where=f"sampler {self.name}",
                fix="Widen the templates or the options, or name a better writer",
            )
        begun = 0 if self.options.every is None else (len(self.rounds) - 1) * self.options.every
        places = range((step - begun) * count, (step - begun + 1) * count)
        laps = {
            lap: numpy_generator(self.arms.seed, self.name, "lap", len(self.rounds), lap).permutation(len(pool))
            for lap in sorted({place // len(pool) for place in places})
        }
        return [pool[laps[place // len(pool)][place % len(pool)]] for place in places]

    def counts(self, step: int, size: int) -> np.ndarray:
        """How many made examples of a step are of each task, (arms,)."""
        import numpy as np

        numbers = [self.arms.names.index(one.task) for one in self.chosen(step, size)]
        return np.bincount(numbers, minlength=len(self.arms.names))

    def observe_rows(self, step: int, rows: Sequence[ExampleRow]) -> None:
        """Observes nothing: rounds hold what it saw."""
        return


def skills_of(lesson: TrainingExample) -> tuple[str, ...]:
    """What an example needs: its tags; where it has none, its task."""
    return lesson.example.tags or (lesson.task.name,)
