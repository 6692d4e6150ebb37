"""The stage `refine`: the model is shown its own answer, and writes a second one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from genepool.errors import InputError
from genepool.tasks import Task
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.judging import Judge, answers_drawn, check_rewarded
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan


class RefineOptions(StageOptions):
    """Options of `refine`."""

    of: str = Field(default="samples", description="Lines whose first sample is refined.")
    to: str = Field(default="refined", description="Name of the lines with the first and the second answer.")
    lessons: str = Field(
        default="refinements", description="Name of the lines to learn refining from: what was asked, and its answer."
    )
    template: str = Field(
        default="{prompt}{answer}\n", description="What asks for the second answer, with {prompt} and {answer}."
    )
    by: Literal["model", "answer"] = Field(
        default="model", description="Who writes the second answer: the model, or it is the known one."
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="metric", description="A reward, or several with their weights."
    )
    at_least: float | None = Field(
        default=1.0,
        description="A second answer is a lesson when its reward is this or more and not below the first one's; null: "
        "when it is above the first one's.",
    )

    @field_validator("template")
    @classmethod
    def _asks(cls, value: str) -> str:
        if missing := [name for name in ("{prompt}", "{answer}") if name not in value]:
            raise ValueError(f"`template` must contain {missing[0]}")
        return value


class Refine(Stage):
    """Shows the model its first answer, and has it write a second one; what got better becomes lessons and pairs."""

    name = "refine"
    source = "Zeng et al., Evolving LLMs' Self-Refinement Capability via Iterative Preference Optimization (EVOLVE)"
    when = "the model is to learn to correct itself"
    Options: ClassVar[type[StageOptions]] = RefineOptions
    options: RefineOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to, self.options.lessons)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        check_rewarded(self.options.reward, tasks)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        most = lines[self.options.of]
        return StagePlan(dict.fromkeys(self.writes, most), samples=most if self.options.by == "model" else 0)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = [line for line in place.read(ask.of) if line.samples and line.samples[0].reward is not None]
        asked = [self._asked(line) for line in lines]
        if ask.by == "answer":
            second = [WrittenAnswer(line.example.answer, 0, 1.0) for line in lines]
            told: dict[str, float] = {}
            tokens, labels = 0, {line.label for line in lines if not line.own}
        else:
            judge = Judge(ask.reward, place)
            drawn = answers_drawn(place, asked, 1, ask.temperature)
            # Judged as an answer to the first question: what asked for it is not part of the task.
            answered = judge.judged(lines, drawn, 1)
            second = [line.samples[0] for line in answered]
            told, tokens, labels = {**judge.check_failed()}, sum(len(one.tokens) for one in drawn), judge.labels
        refined, lessons = [], []
        for line, question, one in zip(lines, asked, second, strict=True):
            if one.reward is None:
                continue
            refined.append(replace(line, samples=(line.samples[0], one)))
            if self._is_lesson(line.samples[0].reward or 0.0, one.reward):
                answer = (one.text,) if one.text else ()
                if answer:
                    known = ask.by == "answer" and not line.own
                    example = replace(question.example, answers=answer)
                    lessons.append(Line(line.task, example, own=not known, known_of=line.example.prompt))
        if not lessons:
            raise InputError(
                f"none of {len(lines)} second answers is valid: none is good enough to learn from",
                where=place.folder,
                fix="Lower `at_least`, draw more prompts, or refine by known answers first (`by: answer`)",
            )
        rewards = [[one.reward or 0.0 for one in line.samples] for line in refined]
        told = {
            **told,
            "first": sum(one for one, _ in rewards) / len(rewards),
            "second": sum(two for _, two in rewards) / len(rewards),
            "improved": sum(two > one for one, two in rewards),
            "worsened": sum(two < one for one, two in rewards),
            "lessons": len(lessons),
        }
        return Done({ask.to: refined, ask.lessons: lessons}, told, tokens, labels=labels)

    def _asked(self, line: Line) -> Line:
        """A line whose prompt asks for the second answer."""
        # Replaced, not formatted: texts of models and strangers stay texts.
        before, _, after = self.options.template.partition("{answer}")
        prompt = line.example.prompt
        text = before.replace("{prompt}", prompt) + line.samples[0].text + after.replace("{prompt}", prompt)
        return replace(line, example=replace(line.example, prompt=text), samples=())

    def _is_lesson(self, first: float, second: float) -> bool:
        least = self.options.at_least
        return second > first if least is None else second >= max(first, least)
