"""Tasks without an end: examples drawn from a template and a seed, fresh ones for ever, never one of another split's.

A search that is asked new examples each time cannot learn them by heart, and a score on examples that did not exist
when a model was trained cannot come from having read them. A mix combines several skills in one example. Templates
are jinja2's, in its sandbox: they may come from strangers.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from genepool import seeding
from genepool.bounded import SECONDS, bounded
from genepool.checked import is_whole
from genepool.errors import InputError, one_line
from genepool.schema import Strict
from genepool.tasks.example import Example
from genepool.tasks.task import Task, TaskSettings

if TYPE_CHECKING:
    import numpy as np
    from jinja2.sandbox import SandboxedEnvironment

# A drawing rule: gets a generator, gives a mapping with prompt and answer, and optionally choices and tags.
Draw = Callable[["np.random.Generator"], Mapping[str, Any]]

# Which share of all possible examples belongs to a split: sixteenths. Decided by an example's content, so that no
# draw of one split ever gives an example of another.
_SHARES = {"train": range(0, 8), "valid": range(8, 12), "test": range(12, 16)}
# Draws in a row that give nothing new before the examples are called exhausted.
_PATIENCE = 2_000
_LONGEST = 100_000
_MOST_EXAMPLES = 1_000_000
# Seconds that the texts of a template may take on average; they take a twentieth of it.
_EACH = 0.001
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Variable(Strict):
    """What a variable of a template is drawn from: one of these."""

    integer: tuple[int, int] | None = Field(None, description="A whole number, both ends included.")
    number: tuple[float, float] | None = Field(None, description="A number between two ends.")
    digits: int = Field(2, ge=0, le=12, description="Digits behind the point of `number`.")
    choice: list[str | int | float] | None = Field(None, min_length=1, description="One of these.")
    letters: tuple[int, int] | None = Field(
        None, description="A text with a number of letters in this range, both ends included."
    )
    alphabet: str = Field(_LETTERS, min_length=1, description="What `letters` is made of.")

    @model_validator(mode="after")
    def _one(self) -> Variable:
        given = [kind for kind in ("integer", "number", "choice", "letters") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("a variable is drawn from one of integer, number, choice and letters. Give one")
        ends = self.integer or self.number or self.letters
        if ends is not None and ends[0] > ends[1]:
            raise ValueError(f"{ends[0]:g} is above {ends[1]:g}. Write the lower end first")
        if self.integer is not None and not all(is_whole(end) for end in self.integer):
            raise ValueError("a whole number must be from -2^63 to 2^63 - 1")
        if self.number is not None and not math.isfinite(self.number[1] - self.number[0]):
            raise ValueError("the ends of `number` are too far apart")
        if self.letters is not None and not 0 <= self.letters[0] <= self.letters[1] <= _LONGEST:
            raise ValueError(f"the length of a text must be from 0 to {_LONGEST:,}")
        return self

    def draw(self, generator: np.random.Generator) -> str | int | float:
        """A value."""
        if self.integer is not None:
            return int(generator.integers(self.integer[0], self.integer[1], endpoint=True))
        if self.number is not None:
            return round(float(generator.uniform(*self.number)), self.digits)
        if self.choice is not None:
            return self.choice[int(generator.integers(len(self.choice)))]
        assert self.letters is not None
        count = int(generator.integers(self.letters[0], self.letters[1], endpoint=True))
        return "".join(self.alphabet[int(i)] for i in generator.integers(len(self.alphabet), size=count))


class MixedSkill(Strict):
    """One skill of a mix."""

    says: str = Field(description="How a prompt asks for it.")
    does: str = Field(description="A template for its result; `text` is what came before.")


class Mix(Strict):
    """Several skills in one example, one after the other, each working on the result of the one before."""

    input: str = Field(description="The variable the first one works on.")
    skills: dict[str, MixedSkill] = Field(min_length=1, description="The skills, by name.")
    k: tuple[int, int] | int = Field(description="How many skills are combined: a number, or a range.")
    shuffled: bool = Field(True, description="Draw the order of the skills; false: keep the order of this file.")

    @model_validator(mode="after")
    def _enough(self) -> Mix:
        low, high = self.ends
        if not 1 <= low <= high <= len(self.skills):
            raise ValueError(f"k must be from 1 to {len(self.skills)}, the number of skills")
        return self

    @property
    def ends(self) -> tuple[int, int]:
        """The fewest and the most skills in an example."""
        return self.k if isinstance(self.k, tuple) else (self.k, self.k)


class Template(Strict):
    """The content of `template.yaml`. Texts are jinja2 templates over the variables."""

    variables: dict[str, Variable] = Field(default_factory=dict, description="Drawn anew for every example.")
    prompt: str = Field(description="What the model reads. In a mix, `says` lists what asks for the skills.")
    answer: str | list[str] = Field("{{ result }}", description="What is right. In a mix, `result` is the last result.")
    choices: list[str] = Field(default_factory=list, description="Options of multiple choice; equal ones count once.")
    only_if: str = Field("", description="A template: draw again unless it gives true, such as `{{ a != b }}`.")
    tags: list[str] = Field(default_factory=list, description="Templates. In a mix, its skills are added.")
    mix: Mix | None = Field(None, description="Combine several skills in one example.")
    counts: dict[str, int] = Field(
        default_factory=lambda: dict.fromkeys(_SHARES, 200), description="Examples of train, valid and test."
    )
    seed: int = Field(0, ge=0, description="Seed of the examples.")

    @model_validator(mode="after")
    def _known(self) -> Template:
        if self.mix is not None and self.mix.input not in self.variables:
            raise ValueError(f"the mix works on '{self.mix.input}', which is not a variable. Add it to `variables`")
        for name in self.variables:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in ("says", "result", "text", "true", "false", "none"):
                raise ValueError(f"'{name}' cannot be a variable's name. Use letters; says, result and text are taken")
        if unknown := next((split for split in self.counts if split not in _SHARES), None):
            raise ValueError(f"no split '{unknown}'. Known are train, valid and test")
        if not self.counts or any(not 1 <= count <= _MOST_EXAMPLES for count in self.counts.values()):
            what = f"`counts` must be from 1 to {_MOST_EXAMPLES:,} for each split"
            raise ValueError(f"{what}. Leave out splits without examples")
        return self


class GeneratedSplits(Mapping[str, Sequence[Example]]):
    """Splits drawn when they are asked for: "valid", and fresh ones like it: "valid@1", "valid@2" and so on.

    Args:
        draw: the rule.
        counts: examples of each split.
        seed: of all of it.
        where: named in messages.
    """

    def __init__(self, draw: Draw, counts: Mapping[str, int], seed: int, where: str) -> None:
        self._draw, self._counts, self._seed, self._where = draw, dict(counts), seed, where
        self._known = cache(self._drawn)

    def __getitem__(self, split: str) -> Sequence[Example]:
        name, at, number = split.partition("@")
        if name not in self._counts or (at and not number.isdecimal()):
            raise KeyError(split)
        return self._known(name, int(number or 0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def _drawn(self, split: str, number: int) -> tuple[Example, ...]:
        from genepool.tasks.reading import example_from

        generator = seeding.numpy_generator(self._seed, "generated", split, number)
        found: dict[str, Example] = {}
        wanted, misses = self._counts[split], 0
        while len(found) < wanted:
            data = self._draw(generator)
            if data:
                identity = f"{split}{f'@{number}' if number else ''}-{len(found) + 1}"
                example = example_from({**data, "id": identity}, self._where)
                if example.key not in found and int(example.key[0], 16) in _SHARES[split]:
                    found[example.key] = example
                    misses = 0
                    continue
            misses += 1
            if misses > _PATIENCE:
                raise InputError(
                    f"got {len(found)} different examples for {split}, expected {wanted}",
                    where=self._where,
                    fix="Lower `counts`, or widen the variables",
                )
        return tuple(found.values())


def generated_task(
    name: str,
    draw: Draw,
    *,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    settings: TaskSettings | None = None,
) -> Task:
    """A task whose examples a Python function draws.

    Args:
        name: the task's name.
        draw: gets a numpy generator, gives a mapping with "prompt" and "answer", and optionally "choices" and "tags";
            an empty one to draw again.
        counts: examples of train, valid and test; 200 each when None.
        seed: another one, other examples.
        settings: how the task is put and judged.
    """
    counts = counts or dict.fromkeys(_SHARES, 200)
    return Task(name, GeneratedSplits(draw, counts, seed, name), settings or TaskSettings())


def template_task(name: str, template: Template, settings: TaskSettings, *, where: str) -> Task:
    """The task of a template; an example of it is drawn at once, so that a wrong template is told now.

    Raises:
        InputError: the template does not say what an example is.
    """
    splits = GeneratedSplits(_Drawing(template, where), template.counts, template.seed, where)
    task = Task(name, splits, settings)
    first = GeneratedSplits(_Drawing(template, where), dict.fromkeys(template.counts, 1), template.seed, where)
    for split in template.counts:
        first[split]
    return task


class _Drawing:
    """A template as a drawing rule."""

    def __init__(self, template: Template, where: str) -> None:
        self._template, self._where = template, where
        # A text may take seconds, but not every one of thousands: what it takes is earned back at a fixed rate.
        self._left = SECONDS

    def __call__(self, generator: np.random.Generator) -> dict[str, Any]:
        template = self._template
        values: dict[str, Any] = {name: variable.draw(generator) for name, variable in template.variables.items()}
        tags: list[str] = []
        if template.mix is not None:
            tags = self._mixed(template.mix, values, generator)
        if template.only_if and self._text("only_if", template.only_if, values).strip().lower() != "true":
            return {}
        answers = [template.answer] if isinstance(template.answer, str) else template.answer
        return {
            "prompt": self._text("prompt", template.prompt, values),
            "answer": [self._text("answer", text, values) for text in answers],
            "choices": list(dict.fromkeys(self._text("choices", text, values) for text in template.choices)),
            "tags": tags + [self._text("tags", text, values) for text in template.tags],
        }

    def _mixed(self, mix: Mix, values: dict[str, Any], generator: np.random.Generator) -> list[str]:
        low, high = mix.ends
        count = int(generator.integers(low, high, endpoint=True))
        places = generator.choice(len(mix.skills), size=count, replace=False).tolist()
        names = [list(mix.skills)[i] for i in (places if mix.shuffled else sorted(places))]
        text = str(values[mix.input])
        for name in names:
            text = self._text(f"mix.skills.{name}.does", mix.skills[name].does, {**values, "text": text})
        values |= {"says": [mix.skills[name].says for name in names], "result": text}
        return names

    def _text(self, key: str, source: str, values: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        where, began = f"{self._where}:{key}", time.process_time()
        with bounded("the template", where=where, fix="Write a simpler one", seconds=max(self._left, _EACH)):
            try:
                text: str = self._compiled(source).render(values)
            except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
                raise InputError(one_line(error), where=where, fix="Correct the template") from None
        self._left = min(self._left + _EACH - (time.process_time() - began), SECONDS)
        if len(text) > _LONGEST:
            raise InputError(
                f"the text has {len(text):,} letters, expected at most {_LONGEST:,}",
                where=where,
                fix="Draw shorter texts",
            )
        return text

    def _compiled(self, source: str) -> Any:
        if source not in self._templates:
            self._templates[source] = self._environment.from_string(source)
        return self._templates[source]

    @cached_property
    def _templates(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _environment(self) -> SandboxedEnvironment:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Careful(ImmutableSandboxedEnvironment):
            """The sandbox keeps templates from Python; this one also from the plainest ways of filling the memory."""

            intercepted_binops = frozenset(["*", "**", "%"])

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                size = max((len(side) for side in (left, right) if hasattr(side, "__len__")), default=0)
                times = max((side for side in (left, right) if isinstance(side, int)), default=0)
                if operator == "*" and size * times > _LONGEST:
                    raise ValueError("the text or list is too long")
                if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
                    raise ValueError("the power is too large")
                if operator == "%" and isinstance(left, str):
                    raise ValueError("% does not format texts here. Join them with ~")
                return super().call_binop(context, operator, left, right)

        return Careful(undefined=StrictUndefined, keep_trailing_newline=True)
