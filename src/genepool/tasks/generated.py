"""Tasks without an end: examples drawn from a template and a seed, fresh ones for ever, never one of another split's.

A search that is asked new examples each time cannot learn them by heart, and a score on examples that did not exist
when a model was trained cannot come from having read them. A mix combines several skills in one example. Templates
are jinja2's, in its sandbox: they may come from strangers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from genepool import seeding
from genepool.checked import is_whole
from genepool.errors import InputError, nearest
from genepool.schema import Strict
from genepool.tasks.example import Example
from genepool.tasks.task import Task, TaskSettings
from genepool.tasks.template_texts import TemplateTexts

if TYPE_CHECKING:
    import numpy as np

# A drawing rule: gets a generator, gives a mapping with prompt and answer, and optionally choices and tags.
Draw = Callable[["np.random.Generator"], Mapping[str, Any]]

# Which share of all possible examples belongs to a split: sixteenths. Decided by an example's content, so that no
# draw of one split ever gives an example of another.
_SHARES = {"train": range(0, 8), "valid": range(8, 12), "test": range(12, 16)}
# Draws in a row that give nothing new before the examples are called exhausted.
_PATIENCE = 2_000
_LONGEST = 100_000
_MOST_EXAMPLES = 1_000_000
# Parts that the range of a variable is cut into, at most.
_PARTS = 4
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

    def parts(self) -> dict[str, Variable]:
        """What it is drawn from, cut into at most four parts, by what they say; none where there is nothing to cut."""
        if self.number is not None:
            low, high = self.number
            ends = [low + (high - low) * at / _PARTS for at in range(_PARTS + 1)]
            cut = {f"{a:g}..{b:g}": Variable(number=(a, b), digits=self.digits) for a, b in pairwise(ends)}
            return cut if high > low else {}
        begin, end = (0, len(self.choice) - 1) if self.choice is not None else self.integer or self.letters or (0, 0)
        whole = end - begin + 1
        count = min(_PARTS, whole)
        found = {}
        for start, following in pairwise([begin + whole * at // count for at in range(count + 1)]):
            last = following - 1
            if self.choice is not None:
                said, part = (
                    (str(self.choice[start]), str(self.choice[last])),
                    Variable(choice=self.choice[start:following]),
                )
            elif self.integer is not None:
                said, part = (str(start), str(last)), Variable(integer=(start, last))
            else:
                said, part = (str(start), str(last)), Variable(letters=(start, last), alphabet=self.alphabet)
            found["..".join(dict.fromkeys(said))] = part
        return found if len(found) > 1 else {}


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

    @property
    def skills(self) -> tuple[str, ...]:
        """What the mix of its template combines; empty where it has none, or a Python function draws."""
        return tuple(self._draw.mixed) if isinstance(self._draw, _Drawing) else ()

    @property
    def cells(self) -> dict[str, dict[str, Variable]]:
        """Parts of what its template draws, by name: each narrows one variable; empty where a Python function draws."""
        return self._draw.cells if isinstance(self._draw, _Drawing) else {}

    @property
    def digest(self) -> str:
        """SHA-256, hex, of its template; empty where a Python function draws."""
        return self._draw.digest if isinstance(self._draw, _Drawing) else ""

    def fresh(
        self,
        generator: np.random.Generator,
        identity: str,
        skills: Sequence[str] = (),
        only: Mapping[str, Variable] | None = None,
    ) -> Example | None:
        """A further example of those that may be trained on; None where this draw gives none, so draw again.

        Args:
            generator: draws.
            identity: the id of the example.
            skills: those of its mix that it combines, in this order where the mix is shuffled; as the template draws
                them where there are none.
            only: variables that are drawn from a part alone, as `cells` names them.

        Raises:
            InputError: the template fails, or its mix has no such skill.
        """
        from genepool.tasks.reading import example_from

        data = self._draw.drawn(generator, skills, only) if isinstance(self._draw, _Drawing) else self._draw(generator)
        if not data:
            return None
        example = example_from({**data, "id": identity}, self._where)
        return example if int(example.key[0], 16) in _SHARES["train"] else None

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
        self._texts = TemplateTexts(where)

    def __call__(self, generator: np.random.Generator) -> dict[str, Any]:
        return self.drawn(generator)

    @property
    def mixed(self) -> list[str]:
        """The skills of its mix, by name."""
        return [] if self._template.mix is None else list(self._template.mix.skills)

    @property
    def cells(self) -> dict[str, dict[str, Variable]]:
        """Parts of what it draws, by name; each narrows one variable, as `Variable.parts` cuts it."""
        found = {}
        for name, variable in self._template.variables.items():
            for said, part in variable.parts().items():
                found[f"{name}={said}"] = {name: part}
        return found

    @property
    def digest(self) -> str:
        """SHA-256, hex, of the template."""
        text = json.dumps(self._template.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def drawn(
        self,
        generator: np.random.Generator,
        skills: Sequence[str] = (),
        only: Mapping[str, Variable] | None = None,
    ) -> dict[str, Any]:
        """An example as a line of a file says it; empty where the template says to draw again.

        Args:
            generator: draws.
            skills: those of the mix that are combined, whatever its `k`; as the mix draws them where there are none.
            only: variables that are drawn otherwise.

        Raises:
            InputError: the template fails, or its mix has no such skill.
        """
        template, other = self._template, only or {}
        values: dict[str, Any] = {
            name: other.get(name, variable).draw(generator) for name, variable in template.variables.items()
        }
        tags: list[str] = []
        if template.mix is not None:
            tags = self._mixed(template.mix, values, generator, skills)
        if template.only_if and self._text("only_if", template.only_if, values).strip().lower() != "true":
            return {}
        answers = [template.answer] if isinstance(template.answer, str) else template.answer
        return {
            "prompt": self._text("prompt", template.prompt, values),
            "answer": [self._text("answer", text, values) for text in answers],
            "choices": list(dict.fromkeys(self._text("choices", text, values) for text in template.choices)),
            "tags": tags + [self._text("tags", text, values) for text in template.tags],
        }

    def _mixed(
        self, mix: Mix, values: dict[str, Any], generator: np.random.Generator, skills: Sequence[str]
    ) -> list[str]:
        if skills:
            if unknown := next((name for name in skills if name not in mix.skills), None):
                raise InputError(
                    f"the mix has no skill '{unknown}'", where=self._where, fix=nearest(unknown, list(mix.skills))
                )
            names = list(skills) if mix.shuffled else [name for name in mix.skills if name in skills]
        else:
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
        return self._texts.text(key, source, values)
