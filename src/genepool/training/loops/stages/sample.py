"""The stage `sample`: what the model writes to each prompt, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from genepool.tasks import DEFAULT_BATCH, Task
from genepool.training.loops.data import Line
from genepool.training.loops.judging import Judge, answers_drawn, check_rewarded, described
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan

# Answers between two looks at the budget of tokens: one batch. Fixed: it decides when the budget is spent.
_AT_ONCE = DEFAULT_BATCH


class SamplingOptions(StageOptions):
    """How many answers are drawn, and how they are judged."""

    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="metric", description="A reward, or several with their weights or options, as for the objective grpo."
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Go on to further prompts until this many tokens were generated; null: all prompts.",
    )


class SampleOptions(SamplingOptions):
    """Options of `sample`."""

    of: str = Field(default="prompts", description="Lines whose prompts are answered.")
    to: str = Field(default="samples", description="Name of the lines that it writes.")
    samples: int = Field(default=8, ge=1, le=4096, description="Answers to each prompt.")


class SampleStage(Stage):
    """Draws answers to each prompt from the model as it is now, and rewards each."""

    name = "sample"
    source = "drawn by (seed, round, example, sample)"
    when = "the model writes its own data"
    Options: ClassVar[type[StageOptions]] = SampleOptions
    options: SampleOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        check_rewarded(self.options.reward, tasks)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        prompts = lines[self.options.of]
        return StagePlan({self.options.to: prompts}, samples=prompts * self.options.samples)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = place.read(ask.of)
        judge = Judge(ask.reward, place)
        found: list[Line] = []
        tokens = 0
        size = max(1, _AT_ONCE // ask.samples)
        for start in range(0, len(lines), size):
            part = lines[start : start + size]
            drawn = answers_drawn(place, part, ask.samples, ask.temperature)
            tokens += sum(len(one.tokens) for one in drawn)
            found += judge.judged(part, drawn, ask.samples)
            if ask.tokens is not None and tokens >= ask.tokens:
                break
        told = {**judge.check_failed(), "prompts": len(found), **described(found)}
        return Done({ask.to: found}, told, tokens, labels=judge.labels)
