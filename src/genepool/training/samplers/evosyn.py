"""EvoSyn: a rule that ranks answers by checks is evolved on verified examples, and chooses the answers of new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from genepool.errors import InputError
from genepool.schema import Strict
from genepool.seeding import derive
from genepool.tasks.metrics import find_metric
from genepool.tasks.template_texts import TemplateTexts
from genepool.training.answer_ranking import (
    ANSWER_FEATURES,
    CHECK_FEATURES,
    FIRST,
    Checked,
    Rule,
    agreement,
    evolved,
    is_formula,
)
from genepool.training.generating import GeneratingSampler, MakingOptions, RoundMaking, Wanted
from genepool.training.made_examples import MadeExample
from genepool.training.makers import WriterMaker, check_written

if TYPE_CHECKING:
    import numpy as np

    from genepool.training.examples import TrainingExample


class EvoSynOptions(MakingOptions):
    """Options of EvoSyn."""

    solutions: int = Field(default=16, ge=2, le=1000, description="Answers to each problem (authors' code: 16).")
    keys: int = Field(
        default=16, ge=0, le=1000, description="Further answers, each a check that its like pass (authors' code: 16)."
    )
    checks: dict[str, str] = Field(
        default_factory=dict,
        description="Templates of {{ prompt }} and {{ answer }}, by name: an answer passes where one gives true.",
    )
    seeds: int = Field(default=20, ge=1, le=10**4, description="Verified examples that a rule is judged by (ours).")
    iterations: int = Field(
        default=20, ge=0, le=10**5, description="Children of each of three islands; 0 keeps the first rule (paper: 20)."
    )

    @field_validator("checks")
    @classmethod
    def _look(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := next((name for name, text in value.items() if "answer" not in text), None):
            raise ValueError(f"the check '{wrong}' does not look at {{{{ answer }}}}")
        return value

    @model_validator(mode="after")
    def _something(self) -> EvoSynOptions:
        if not self.keys and not self.checks:
            raise ValueError("an answer is checked by `keys` or by `checks`, and there are none. Give one")
        return self


class EvoSyn(GeneratingSampler):
    """Several answers and several checks for each problem, each answer put to each check, and a rule that ranks both.

    Answers are drawn from the writer, or from the model itself. Checks are further drawn answers, which their like
    pass, and templates. The rule is evolved (`answer_ranking`) on training examples whose answers are known: its best
    answer must be right, and its best check must say what is known of its best and its worst answer. A new problem is
    drawn from a template, whose own answer is only counted (`right`), or written; where all answers or all checks rank
    alike, it is dropped; otherwise it is learned with its best answer. The control shuffles what is known of answers.
    The paper's rules are programs that a language model rewrites; here they are formulas.
    """

    name = "evosyn"
    source = (
        "Du et al., EvoSyn (arXiv:2510.17928); numbers and the first rule as in the authors' code, formulas are ours"
    )
    when = "Answers to new problems are not known, and some checks of them are faulty."
    asks = False
    Options: ClassVar[type[Strict]] = EvoSynOptions
    options: EvoSynOptions

    def check(self) -> None:
        self._texts = TemplateTexts("sampler_options.checks")
        for name, template in self.options.checks.items():
            self._texts.check(name, template)

    def check_skills(self, stored: Sequence[TrainingExample]) -> None:
        for task in {lesson.task.name: lesson.task for lesson in stored}.values():
            check_written(task)

    def plan(self, making: RoundMaking) -> list[Wanted]:
        assert making.maker is not None
        skills = making.maker.skills
        drawn = making.generator("skills").integers(len(skills), size=self.size(making))
        return [Wanted((skills[int(at)],)) for at in drawn]

    def make(self, making: RoundMaking) -> list[MadeExample]:
        rule = self._rule(making)
        wanted = self.plan(making)
        making.count("wanted", len(wanted))
        each = self._tokens(making)
        if isinstance(making.maker, WriterMaker):
            each += making.maker.asking
        able = max(0, making.tokens - making.counts["tokens"]) // each
        if len(wanted) > able:
            making.count("beyond_tokens", len(wanted) - able)
        wanted = wanted[:able]
        if isinstance(making.maker, WriterMaker):
            asked = making.maker.questions(wanted, making)
            problems = [(lesson, {"by": "writer", "skills": list(one.skills)}) for one, lesson in asked]
        else:
            problems = [(making.lesson(one), dict(one.made)) for one in making.made(wanted)]
        found = []
        texts = self._answers([lesson for lesson, _ in problems], making, "new")
        for (lesson, said), own in zip(problems, texts, strict=True):
            solutions, passes = self._passes(lesson, own)
            answers, checks = rule.scores(passes)
            if answers.max() <= answers.min() or (len(checks) > 1 and checks.max() <= checks.min()):
                making.count("trivial")
                continue
            best = solutions[int(answers.argmax())]
            example = replace(lesson.example, answers=(best,), choices=())
            if not best.strip() or not making.student.fits(replace(lesson, example=example)):
                making.count("unfit")
                continue
            if lesson.example.answer:
                making.count("right", int(_judged(lesson, best)))
            passed = [int(passes[int(answers.argmax())].sum()), passes.shape[1]]
            found.append(MadeExample(lesson.task.name, example, {**said, "answered": "evosyn", "passed": passed}))
        return found

    def _tokens(self, making: RoundMaking) -> int:
        """Tokens that the answers to a problem take, at most."""
        longest = max(task.settings.max_new_tokens for task in making.tasks.values())
        return (self.options.solutions + self.options.keys) * longest

    # ------------------------------------------------------------------ the rule

    def _rule(self, making: RoundMaking) -> Rule:
        """The rule of the first round, on record; or the one that evolves now."""
        if self.rounds and isinstance(told := self.rounds[0].told.get("rule"), dict):
            known = is_formula(told.get("checks"), CHECK_FEATURES) and is_formula(told.get("answers"), ANSWER_FEATURES)
            if not known:
                raise InputError(
                    "its rule on record is none", where="run.sqlite:rounds", fix="Start again with --overwrite"
                )
            making.counts["rule"] = told
            return Rule(_tuples(told["checks"]), _tuples(told["answers"]))
        problems = self._verified(making)
        rule, share = evolved(problems, derive(making.seed, "evosyn"), rounds=self.options.iterations)
        making.counts["rule"] = rule.to_dict()
        making.counts["agreement"] = {"first": agreement(FIRST, problems), "evolved": share}
        return rule

    def _verified(self, making: RoundMaking) -> list[Checked]:
        import numpy as np

        order = making.generator("seeds").permutation(len(making.stored))[: self.options.seeds]
        lessons = [making.stored[int(at)] for at in order]
        if (needed := len(lessons) * self._tokens(making)) > making.tokens:
            raise InputError(
                f"judging rules by {len(lessons)} verified examples may take {needed:,} tokens",
                where="sampler_options.tokens",
                fix="Give more, or fewer seeds, solutions or keys",
            )
        found, rights = [], []
        for lesson, own in zip(lessons, self._answers(lessons, making, "seeds"), strict=True):
            solutions, passes = self._passes(lesson, own)
            found.append(passes)
            rights.append(np.array([_judged(lesson, text) for text in solutions]))
        if self.options.permuted:
            mixed = making.generator("permuted").permutation(np.concatenate(rights))
            rights = np.split(mixed, np.cumsum([len(one) for one in rights])[:-1])
        return [Checked(passes, right) for passes, right in zip(found, rights, strict=True)]

    # ------------------------------------------------------------------ answers and checks

    def _answers(self, lessons: Sequence[TrainingExample], making: RoundMaking, name: str) -> list[list[str]]:
        """Answers to each problem: first the solutions, then the keys."""
        count = self.options.solutions + self.options.keys
        if isinstance(making.maker, WriterMaker):
            return making.maker.answers(lessons, count, making, name)
        found, tokens = making.student.drawn(lessons, count, self.options.temperature, name)
        making.count("tokens", tokens)
        return found

    def _passes(self, lesson: TrainingExample, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """The solutions of a problem, and which check each of them passes, (solutions, checks)."""
        import numpy as np

        ask = self.options
        strip = lesson.task.settings.strip
        own = [text.strip() if strip else text for text in texts]
        solutions, keys = own[: ask.solutions], own[ask.solutions :]
        columns = [[_alike(lesson, text, key) for text in solutions] for key in keys]
        for name, template in ask.checks.items():
            columns.append([self._true(name, template, lesson.example.prompt, text) for text in solutions])
        return solutions, np.array(columns, dtype=bool).T

    def _true(self, name: str, template: str, prompt: str, answer: str) -> bool:
        """Whether a check says true of an answer; one that fails on it does not."""
        try:
            said = self._texts.text(name, template, {"prompt": prompt, "answer": answer})
        except InputError:
            return False
        return said.strip().lower() == "true"


def _judged(lesson: TrainingExample, text: str) -> bool:
    """Whether an answer is right, as the task judges it."""
    metric = find_metric(lesson.task.settings.metric)
    return metric.score(text, lesson.example, lesson.task.settings.strip) >= 1


def _alike(lesson: TrainingExample, text: str, key: str) -> bool:
    """Whether an answer would be right if another one were."""
    if text == key or not key:
        return text == key
    metric = find_metric(lesson.task.settings.metric)
    return not metric.from_prompt and _judged(replace(lesson, example=replace(lesson.example, answers=(key,))), text)


def _tuples(formula: Any) -> Any:
    """A formula out of the record, where operations are lists."""
    return tuple(map(_tuples, formula)) if isinstance(formula, list) else formula
