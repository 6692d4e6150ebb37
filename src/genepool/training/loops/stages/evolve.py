"""The stage `evolve`: new prompts, written by the model from those that told most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks import Example, Task
from genepool.training.loops.data import Line, lines_of
from genepool.training.loops.judging import answers_drawn
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan
from genepool.training.samples import writer


class EvolveOptions(StageOptions):
    """Options of `evolve`."""

    of: str = Field(default="samples", description="Lines whose rewards say how much a prompt tells.")
    to: str = Field(default="prompts", description="Name of the lines that it writes.")
    count: int | None = Field(default=None, ge=1, description="Prompts to write; null: as many as it reads.")
    buffer: float = Field(
        default=0.5, ge=0, lt=1, description="Share of these that are drawn from the tasks' own training examples."
    )
    template: str = Field(
        default="Rewrite this problem so that it is harder. Write the new problem alone.\n\n{prompt}\n\n",
        description="What asks for a new prompt, with {prompt}.",
    )
    into: str = Field(default="{text}", description="The new prompt, with {text} for what was written.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    uniform: bool = Field(default=False, description="Evolve any prompt, whatever it told: the control.")

    @field_validator("template")
    @classmethod
    def _shows(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("`template` must contain {prompt}")
        return value

    @field_validator("into")
    @classmethod
    def _holds(cls, value: str) -> str:
        if "{text}" not in value:
            raise ValueError("`into` must contain {text}")
        return value


class Evolve(Stage):
    """Evolves prompts that tell much: drawn by the highest reward minus the lowest, and rewritten by the model.

    The answers to new prompts are not known. They can be judged by a reward that needs none, such as majority, or by a
    metric that reads the prompt alone, such as countdown.
    """

    name = "evolve"
    source = "Ye et al., Evolving Alignment via Asymmetric Self-Play (eva), arXiv:2411.00062"
    when = "the prompts there are have become too easy or too few"
    Options: ClassVar[type[StageOptions]] = EvolveOptions
    options: EvolveOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        count = self.options.count or lines[self.options.of]
        return StagePlan({self.options.to: count}, samples=count - round(self.options.buffer * count))

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = place.read(ask.of)
        tells = [max(line.rewards) - min(line.rewards) if line.rewards else 0.0 for line in lines]
        total = sum(tells)
        if not total and not ask.uniform:
            raise InputError(
                f"none of {len(lines)} prompts is valid to evolve: the samples of each are all rewarded alike",
                where=place.folder,
                fix="Draw more samples at a higher temperature, or use another reward",
            )
        count = ask.count or len(lines)
        kept = round(ask.buffer * count)
        shares = None if ask.uniform else [one / total for one in tells]
        generator = numpy_generator(place.seed, "evolve")
        parents = [lines[int(at)] for at in generator.choice(len(lines), size=count - kept, p=shares)]
        asked = [
            # Each its own key, so that a prompt that is drawn twice is rewritten twice.
            replace(parent, example=_asking(parent.example, ask.template, at), samples=())
            for at, parent in enumerate(parents)
        ]
        drawn = answers_drawn(place, asked, 1, ask.temperature)
        able = writer(place.load(place.model))
        children: dict[tuple[str, str], Line] = {}
        for at, (parent, one) in enumerate(zip(parents, drawn, strict=True)):
            text = one.text.strip()
            prompt = ask.into.replace("{text}", text)
            example = Example(f"evolved-{place.round}-{at + 1}", prompt, ("",))
            task = place.tasks[parent.task]
            room = able.context - len(able.encode(task.prompt_for(example, able)))
            if text and prompt != parent.example.prompt and room > 0:
                children.setdefault((parent.task, prompt), Line(parent.task, example, own=True))
        if not children:
            raise InputError(
                f"none of {len(parents)} new prompts is valid: each is empty, unchanged, or longer than the context",
                where=place.folder,
                fix="Change `template`, or name a base that follows it",
            )
        known = _others(list(place.tasks.values()), kept, place.seed)
        told = {
            "informativeness": total / len(lines),
            "evolved": len(children),
            "invalid": len(parents) - len(children),
            "buffer": len(known),
        }
        return Done({ask.to: [*children.values(), *known]}, told, sum(len(one.tokens) for one in drawn))


def _asking(example: Example, template: str, number: int) -> Example:
    prompt = template.replace("{prompt}", example.prompt)
    return replace(example, prompt=prompt, answers=(str(number),))


def _others(tasks: Sequence[Task], count: int, seed: int) -> list[Line]:
    """Training examples of the tasks, drawn uniformly."""
    found = [line for task in tasks for line in lines_of(task, "train")]
    order = numpy_generator(seed, "buffer").permutation(len(found)).tolist()
    return [found[at] for at in order[:count]]
