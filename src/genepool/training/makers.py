"""Who makes the examples that a sampler wants: the templates of the tasks, or a model that writes.

A template's answers are right by construction. A writer's are what most of its own answers say, and where a metric can
judge an answer by the question alone, it must. What is refused is counted. Uses the tasks and our own decoding.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from genepool.errors import InputError, nearest
from genepool.seeding import derive, numpy_generator
from genepool.tasks import DEFAULT_BATCH, Example, LanguageModel, Task
from genepool.tasks.decoding import Decoding, generate_tokens
from genepool.tasks.generated import GeneratedSplits
from genepool.tasks.metrics import find_metric
from genepool.training.examples import TrainingExample
from genepool.training.made_examples import MadeExample, plain
from genepool.training.samples import Sample, draw_samples

if TYPE_CHECKING:
    from genepool.training.generating import MakingOptions, RoundMaking, Wanted

# Draws of a template for one example, at most; half of all draws belong to other splits.
_TRIES = 200
#: Tokens of a list that a writer writes, for each name in it.
A_NAME = 16


class Maker(ABC):
    """Makes examples.

    Args:
        tasks: whose examples are made, by name.
        stored: their training examples.
    """

    def __init__(self, tasks: Mapping[str, Task], stored: Sequence[TrainingExample]) -> None:
        self.tasks = tasks
        self.known: dict[str, list[TrainingExample]] = {}
        for lesson in stored:
            for skill in lesson.example.tags or (lesson.task.name,):
                self.known.setdefault(skill, []).append(lesson)

    @property
    @abstractmethod
    def skills(self) -> tuple[str, ...]:
        """What it can be asked for, in alphabetical order."""

    @abstractmethod
    def able(self, skills: Sequence[str]) -> tuple[str, ...]:
        """The tasks of which it can make an example that needs all of some skills."""

    @abstractmethod
    def make(self, wanted: Sequence[Wanted], making: RoundMaking) -> list[MadeExample]:
        """Makes what is wanted, as far as it can; what it cannot is counted.

        Raises:
            InputError: a skill is unknown, or no task can make it.
        """

    def task_for(self, one: Wanted, number: int, making: RoundMaking) -> Task:
        """Whose example it becomes.

        Raises:
            InputError: no task can make it.
        """
        able = (one.task,) if one.task else self.able(one.skills)
        if not able:
            unknown = next((skill for skill in one.skills if not self.able((skill,))), None)
            if unknown is not None:
                raise InputError(f"no task makes '{unknown}'", where="sampler", fix=nearest(unknown, self.skills))
            raise InputError(
                f"no task combines {' and '.join(one.skills)}",
                where="sampler",
                fix="Give a task whose template mixes them, or a writer: --set sampler.writer=MODEL",
            )
        return self.tasks[able[int(making.generator("task", number).integers(len(able)))]]

    def refused(self, task: Task, example: Example, making: RoundMaking) -> str:
        """Why an example may not be learned from, as `Round.told` calls it; empty where it may."""
        if not example.prompt.strip() or not making.student.fits(TrainingExample(task, example)):
            return "unfit"
        if example.prompt in making.forbidden:
            return "contaminated"
        return "repeated" if plain(example.prompt) in making.used else ""


class TemplateMaker(Maker):
    """Draws from the templates of the tasks.

    Raises:
        InputError: a task has no template.
    """

    def __init__(self, tasks: Mapping[str, Task], stored: Sequence[TrainingExample]) -> None:
        super().__init__(tasks, stored)
        self._splits: dict[str, GeneratedSplits] = {}
        for name, task in tasks.items():
            if not isinstance(task.splits, GeneratedSplits):
                raise InputError(
                    "has no template that further examples could be made by",
                    where=name,
                    fix="Write a template.yaml instead of its files, or name a writer: --set sampler.writer=MODEL",
                )
            self._splits[name] = task.splits
        #: By task: the sets of tags that its training examples have.
        self._together: dict[str, set[frozenset[str]]] = {name: set() for name in tasks}
        for lesson in stored:
            self._together[lesson.task.name].add(frozenset(lesson.example.tags or (lesson.task.name,)))

    @property
    def skills(self) -> tuple[str, ...]:
        mixed = {skill for splits in self._splits.values() for skill in splits.skills}
        return tuple(sorted(mixed | set(self.known)))

    def able(self, skills: Sequence[str]) -> tuple[str, ...]:
        wanted = set(skills)
        return tuple(
            name
            for name, splits in self._splits.items()
            # A template says itself which tags go together, but for the skills of its mix.
            if wanted <= set(splits.skills) or any(wanted <= own for own in self._together[name])
        )

    def subskills(self, skill: str) -> dict[str, Wanted]:
        """What a skill is made of, by name: its combinations with others of its mix, and parts of its variables."""
        from genepool.training.generating import Wanted

        found = {}
        able = self.able((skill,))
        for name in able:
            splits, front = self._splits[name], f"{name}: " if len(able) > 1 else ""
            for other in splits.skills:
                if skill in splits.skills and other != skill:
                    found[f"{front}with {other}"] = Wanted((skill, other), name, exact=True)
            for cell in splits.cells:
                found[f"{front}{cell}"] = Wanted((skill,), name, cell)
        return found or {"all": Wanted((skill,))}

    def make(self, wanted: Sequence[Wanted], making: RoundMaking) -> list[MadeExample]:
        found = []
        for number, one in enumerate(wanted):
            task = self.task_for(one, number, making)
            made = self._drawn(task, one, number, making)
            if made is not None:
                making.used.add(plain(made.example.prompt))
                found.append(made)
        return found

    def _drawn(self, task: Task, one: Wanted, number: int, making: RoundMaking) -> MadeExample | None:
        splits = self._splits[task.name]
        only = splits.cells.get(one.cell) if one.cell else None
        mixed = one.skills if one.exact and set(one.skills) <= set(splits.skills) else ()
        why = "failed"
        for at in range(_TRIES):
            names = ("making", making.number, "template", number, at)
            identity = f"made-{making.number}-{number + 1}"
            example = splits.fresh(numpy_generator(making.seed, *names), identity, mixed, only)
            if example is None or not (mixed or set(one.skills) <= set(example.tags or (task.name,))):
                continue
            if refused := self.refused(task, example, making):
                why = refused
                continue
            said = {
                "by": "template",
                "template": splits.digest,
                "seed": derive(making.seed, *names),
                "draw": [making.number, number, at],
                "skills": list(one.skills),
                **({"cell": one.cell} if one.cell else {}),
                **one.said,
            }
            return MadeExample(task.name, example, said)
        making.count(why)
        return None


class WriterMaker(Maker):
    """Has a model write questions and answer them.

    Args:
        tasks, stored: as for every maker.
        model: who writes.
        options: how it is asked, and how many of its answers must agree.

    Raises:
        InputError: an answer is chosen, not written.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        stored: Sequence[TrainingExample],
        model: LanguageModel,
        options: MakingOptions,
    ) -> None:
        super().__init__(tasks, stored)
        self.model, self._options = model, options
        #: Skills that the writer named itself: any task may need them.
        self.named: tuple[str, ...] = ()
        for task in tasks.values():
            check_written(task)

    @property
    def skills(self) -> tuple[str, ...]:
        return self.named or tuple(sorted(self.known))

    def able(self, skills: Sequence[str]) -> tuple[str, ...]:
        if self.named:
            return tuple(sorted(self.tasks)) if set(skills) <= set(self.named) else ()
        if any(skill not in self.known for skill in skills):
            return ()
        return tuple(sorted({lesson.task.name for skill in skills for lesson in self.known[skill]}))

    @property
    def asking(self) -> int:
        """Tokens that a question may take, at most, its check among them."""
        ask = self._options
        return ask.question_tokens + (0 if ask.check is None else ask.votes * self._longest)

    @property
    def _longest(self) -> int:
        return max(task.settings.max_new_tokens for task in self.tasks.values())

    def make(self, wanted: Sequence[Wanted], making: RoundMaking) -> list[MadeExample]:
        able = max(0, making.tokens) // (self.asking + self._options.votes * self._longest)
        if len(wanted) > able:
            making.count("beyond_tokens", len(wanted) - able)
        found = self.questions(wanted[:able], making)
        made = []
        texts = self.answers([lesson for _, lesson in found], self._options.votes, making, "answer")
        for number, ((one, lesson), own) in enumerate(zip(found, texts, strict=True)):
            answer, votes = self.voted(lesson, own)
            # One that is known to be right needs no other vote.
            sure = find_metric(lesson.task.settings.metric).from_prompt
            if votes < (1 if sure else self._options.agree):
                making.count("disagreed")
                continue
            example = replace(lesson.example, answers=(answer,))
            if not answer.strip() or not making.student.fits(TrainingExample(lesson.task, example)):
                making.count("unfit")
                continue
            said = {
                "by": "writer",
                "seed": derive(making.seed, "making", making.number),
                "draw": [making.number, number, 0],
                "skills": list(one.skills),
                "votes": [votes, self._options.votes],
                **one.said,
            }
            made.append(MadeExample(lesson.task.name, example, said))
        return made

    def questions(self, wanted: Sequence[Wanted], making: RoundMaking) -> list[tuple[Wanted, TrainingExample]]:
        """What the writer asks, without answers: those questions that may be learned from, and that it finds sound."""
        if not wanted:
            return []
        tasks = [self.task_for(one, number, making) for number, one in enumerate(wanted)]
        asked = [self.question(one, number, making) for number, one in enumerate(wanted)]
        written = self.write(asked, making, "question", self._options.question_tokens, ("\n\n",))
        found: list[tuple[Wanted, TrainingExample]] = []
        for number, (task, one, text) in enumerate(zip(tasks, wanted, written, strict=True)):
            example = Example(f"made-{making.number}-{number + 1}", text.strip(), ("",), tags=one.skills)
            if refused := self.refused(task, example, making):
                making.count(refused)
                continue
            making.used.add(plain(example.prompt))
            found.append((one, TrainingExample(task, example)))
        sound = self._sound([lesson for _, lesson in found], making)
        return [one for one, fine in zip(found, sound, strict=True) if fine]

    def named_in(self, prompts: Sequence[str], count: int, making: RoundMaking, name: str) -> list[list[str]]:
        """What the writer names in lists that some prompts ask for; its tokens are taken from those that are left.

        Args:
            prompts: what asks it.
            count: names of a list, at most.
            making: of the round.
            name: of the draws.

        Returns:
            To each prompt the names, each once, in their order; perhaps none.
        """
        before = making.counts["tokens"]
        texts = self.write(prompts, making, name, A_NAME * count, ("\n\n",))
        making.tokens -= making.counts["tokens"] - before
        # Lists are often numbered or begin with a dash.
        lists = [[re.sub(r"^[\s\d.)*-]+", "", line).strip() for line in text.splitlines()] for text in texts]
        return [list(dict.fromkeys(name for name in names if name))[:count] for names in lists]

    def question(self, one: Wanted, number: int, making: RoundMaking) -> str:
        """What asks the writer for a question."""
        shown = list(one.like)
        if not shown:
            wanted = one.skills if not self.named else tuple(self.known)
            pool = [lesson for skill in wanted for lesson in self.known.get(skill, ())]
            order = making.generator("shown", number).permutation(len(pool))
            shown = [pool[int(at)] for at in order[: self._options.shown]]
        texts = "\n\n".join(lesson.example.prompt for lesson in shown[: self._options.shown])
        ask = self._options.ask.replace("{skills}", one.called or ", ".join(one.skills)).replace("{kind}", one.kind)
        return ask.replace("{examples}", texts)

    def write(
        self, prompts: Sequence[str], making: RoundMaking, name: str, tokens: int, stop: tuple[str, ...] = ()
    ) -> list[str]:
        """What the writer writes to some prompts, each drawn by (seed, round, name, number); its tokens are counted."""
        decoding = Decoding(tokens, stop, self._options.temperature, 1.0, making.seed)
        heads = [self.model.encode(prompt) for prompt in prompts]
        keys = [f"{making.number}\x1f{name}\x1f{number}" for number in range(len(prompts))]
        written = generate_tokens(self.model, heads, keys, decoding, DEFAULT_BATCH)
        making.count("tokens", sum(len(one.tokens) for one in written))
        return [one.text for one in written]

    def answers(
        self, lessons: Sequence[TrainingExample], count: int, making: RoundMaking, name: str
    ) -> list[list[str]]:
        """Answers that the writer draws to questions as their tasks ask them: `count` to each."""
        if not lessons:
            return []
        seed = derive(making.seed, "making", making.number, name)
        found = draw_samples(self.model, lessons, count, self._options.temperature, seed=seed, step=making.number)
        making.count("tokens", sum(len(one.tokens) for one in found))
        return grouped(found, count)

    def voted(self, lesson: TrainingExample, texts: Sequence[str]) -> tuple[str, int]:
        """The answer that most of the writer's answers are, the first of equals, and how many these are.

        Where a metric judges by the question alone, only answers that it finds right count.
        """
        metric, strip = find_metric(lesson.task.settings.metric), lesson.task.settings.strip
        own = [text.strip() if strip else text for text in texts]
        if metric.from_prompt:
            own = [text for text in own if metric.score(text, lesson.example, strip) >= 1]
        if not own:
            return "", 0
        ((answer, votes),) = Counter(own).most_common(1)
        return answer, votes

    def _sound(self, lessons: Sequence[TrainingExample], making: RoundMaking) -> list[bool]:
        """Whether the writer says of its questions that they are sound, by most of its replies."""
        ask = self._options
        if ask.check is None or not lessons:
            return [True] * len(lessons)
        asked = [ask.check.replace("{prompt}", lesson.example.prompt) for lesson in lessons for _ in range(ask.votes)]
        replies = self.write(asked, making, "check", self._longest, ("\n",))
        found = []
        for at in range(len(lessons)):
            own = replies[at * ask.votes : (at + 1) * ask.votes]
            found.append(2 * sum(text.strip().casefold().startswith("yes") for text in own) > ask.votes)
        if unsound := found.count(False):
            making.count("unsound", unsound)
        return found


def check_written(task: Task) -> None:
    """Refuses a task that a writer cannot answer.

    Raises:
        InputError: it is answered by a choice.
    """
    if find_metric(task.settings.metric).needs != "text":
        raise InputError(
            "is answered by a choice, so a writer cannot answer it",
            where=task.name,
            fix="Name a task whose answers are written, or leave sampler.writer out",
        )


def grouped(samples: Sequence[Sample], count: int) -> list[list[str]]:
    """The texts of samples, `count` for each prompt."""
    return [[one.text for one in samples[at : at + count]] for at in range(0, len(samples), count)]
