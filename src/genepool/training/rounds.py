"""The rounds of a sampler that has examples made: each out of the record, or made now and put there.

The student is the model in training, as it is before the step that a round belongs to. Uses the session, the makers and
the record; `run` calls it before every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genepool import progress
from genepool.errors import InputError
from genepool.seeding import derive, numpy_generator
from genepool.tasks import DEFAULT_BATCH, LanguageModel, open_model
from genepool.tasks.answering import answer
from genepool.tasks.ledger import Outcome
from genepool.training.batches import encode_examples
from genepool.training.examples import TrainingExample, by_task
from genepool.training.generating import GeneratingSampler, RoundMaking, SkillReport
from genepool.training.journal import Journal
from genepool.training.made_examples import Forbidden, MadeExample, Round, plain
from genepool.training.makers import Maker, TemplateMaker, WriterMaker, grouped
from genepool.training.opened_training import OpenedTraining
from genepool.training.samples import draw_samples, writer
from genepool.training.session import Session
from genepool.weights import open_weights


class SessionStudent:
    """The model of a session, as samplers ask it (`generating.Student`).

    Args:
        session: with the state that it has before a step.
        seed: of the training.
    """

    def __init__(self, session: Session, seed: int) -> None:
        self._session, self._seed = session, seed

    def outcomes(self, lessons: Sequence[TrainingExample]) -> list[Outcome]:
        """How it does on examples, as their tasks ask and judge them; what it wrote is kept."""
        import torch

        found: dict[int, Outcome] = {}
        with torch.no_grad():
            for task, places in by_task(lessons):
                examples = [lessons[place].example for place in places]
                with self._session.trained.about(task.name):
                    own = answer(self._session.model, task, examples, DEFAULT_BATCH, True)
                found |= dict(zip(places, own, strict=True))
        return [found[place] for place in range(len(lessons))]

    def fits(self, lesson: TrainingExample) -> bool:
        """Whether it can read an example and learn its answer; of an empty answer, whether there is room for one."""
        model, example = self._session.model, lesson.example
        if not example.answer:
            able = writer(model)
            return len(able.encode(lesson.task.prompt_for(example, able))) < able.context
        try:
            encode_examples(model, [example], lesson.task, 1)
        except InputError:
            return False
        return True

    def drawn(
        self, lessons: Sequence[TrainingExample], count: int, temperature: float, name: str
    ) -> tuple[list[list[str]], int]:
        """Answers that it draws, `count` to each prompt, by (seed, name, prompt, number); and their tokens."""
        import torch

        if not lessons:
            return [], 0
        seed = derive(self._seed, "drawn", name)
        with torch.no_grad():
            found = draw_samples(self._session.model, lessons, count, temperature, seed=seed, step=-1)
        return grouped(found, count), sum(len(one.tokens) for one in found)


class Rounds:
    """The rounds of a training, where its sampler has examples made.

    Args:
        opened: the training.
        journal: its record.
        session: the model.
        device: torch's name of the device, for a writer.
        recorded: only rounds on record are taken: none is made.
    """

    def __init__(
        self, opened: OpenedTraining, journal: Journal, session: Session, device: str, *, recorded: bool = False
    ) -> None:
        self._opened, self._journal, self._session = opened, journal, session
        self._device, self._recorded = device, recorded
        self._maker: Maker | None = None
        self._forbidden: Forbidden | None = None

    def gradients(self, step: int) -> float:
        """`Session.gradients`, after the rounds that are due before the step were taken.

        Raises:
            InputError: a round of before is not on record, or nothing could be made.
        """
        sampler = self._opened.lessons.generating
        while sampler is not None and len(sampler.rounds) < sampler.due(step):
            number = len(sampler.rounds)
            if (found := self._journal.round(number)) is None:
                if self._recorded or number + 1 < sampler.due(step):
                    raise InputError(
                        f"round {number} of the examples that were made is not on record",
                        where=self._journal.path,
                        fix="Start again with --overwrite",
                    )
                found = self._made(sampler, number)
                self._journal.put_round(found, step + 1)
            names = {task.name for task in self._opened.lessons.tasks}
            if unknown := next((one.task for one in found.examples if one.task not in names), None):
                raise InputError(
                    f"holds made examples of '{unknown}', which is no task of this training",
                    where=self._journal.path,
                    fix="Start again with --overwrite",
                )
            sampler.take(found)
        return self._session.gradients(step)

    def _made(self, sampler: GeneratingSampler, number: int) -> Round:
        if sampler.room <= 0:
            return Round(number, (), {"wanted": 0, "tokens": 0, "spent": True})
        recipe, lessons = self._opened.recipe, self._opened.lessons
        student = SessionStudent(self._session, derive(recipe.seed, "round", number))
        with progress.bar(f"making examples, round {number + 1}"):
            if self._forbidden is None:
                self._forbidden = Forbidden((*lessons.tasks, *self._opened.others))
            report = self._report(sampler, student, number) if sampler.asks else None
            making = RoundMaking(
                number,
                recipe.seed,
                {task.name: task for task in lessons.tasks},
                lessons.train,
                student,
                report,
                self._made_by(sampler),
                self._forbidden,
                {plain(one.example.prompt) for one in sampler.made},
                sampler.room,
                sampler.options.tokens - sum(one.tokens for one in sampler.rounds),
            )
            found = sampler.make(making)[: sampler.room]
            if sampler.attempts and found:
                found = self._attempted(student, found, making, sampler.options.permuted)
        if sampler.options.every is None:
            # The writer is not needed again.
            self._maker = None
        seen = {} if report is None else {"report": report.to_dict()}
        return Round(number, tuple(found), {**seen, **making.counts})

    def _report(self, sampler: GeneratingSampler, student: SessionStudent, number: int) -> SkillReport:
        lessons = self._opened.lessons.valid
        outcomes = student.outcomes(lessons)
        order = list(range(len(lessons)))
        if sampler.options.permuted:
            order = numpy_generator(self._opened.recipe.seed, "permuted", number).permutation(len(lessons)).tolist()
        scores = tuple(outcomes[at].score for at in order)
        return SkillReport(tuple(lessons), scores, tuple(outcomes[at].output or "" for at in order))

    def _attempted(
        self, student: SessionStudent, found: list[MadeExample], making: RoundMaking, permuted: bool
    ) -> list[MadeExample]:
        """The same with how the model did on each before it learned from it."""
        lessons = [TrainingExample(making.tasks[one.task], one.example) for one in found]
        scores = [one.score for one in student.outcomes(lessons)]
        if permuted:
            order = making.generator("attempts").permutation(len(scores)).tolist()
            scores = [scores[at] for at in order]
        return [replace(one, made={**one.made, "attempt": score}) for one, score in zip(found, scores, strict=True)]

    def _made_by(self, sampler: GeneratingSampler) -> Maker | None:
        lessons, name = self._opened.lessons, sampler.options.writer
        tasks = {task.name: task for task in lessons.tasks}
        if self._maker is None and name is not None:
            model = open_model(open_weights(name, allow_pickle=self._opened.allow_pickle)).load(
                self._device, self._opened.recipe.dtype
            )
            assert isinstance(model, LanguageModel)
            self._maker = WriterMaker(tasks, lessons.train, model, sampler.options)
        elif self._maker is None and sampler.makes:
            self._maker = TemplateMaker(tasks, lessons.train)
        return self._maker
