"""The stage `draw`: which prompts the round is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genepool.seeding import numpy_generator
from genepool.tasks import Task
from genepool.training.batches import answer_likelihoods, encode_examples
from genepool.training.loops.data import Line, lines_of
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan


class DrawOptions(StageOptions):
    """Options of `draw`."""

    of: str | None = Field(default=None, description="Lines to draw from; null: the examples of the tasks.")
    split: str = Field(default="train", description="Which examples of the tasks, where `of` is null.")
    to: str = Field(default="prompts", description="Name of the lines that it writes.")
    count: int | None = Field(default=None, ge=1, description="Prompts, at most; null: all there are.")
    by: Literal["length", "likelihood"] | None = Field(
        default=None,
        description="What makes a prompt hard, for `part`: its number of characters, or the loss of its known answer.",
    )
    part: tuple[float, float] = Field(
        default=(0.0, 1.0), description="Draw from this part of the prompts, sorted from easy (0) to hard (1)."
    )

    @model_validator(mode="after")
    def _ordered(self) -> DrawOptions:
        low, high = self.part
        if not 0 <= low < high <= 1:
            raise ValueError(f"`part` must be two numbers from 0 to 1, the lower first, got {low:g} and {high:g}")
        if self.by is None and self.part != (0.0, 1.0):
            raise ValueError("`part` needs `by`, which says what makes a prompt hard")
        return self


class Draw(Stage):
    """Draws prompts without replacement; from an easier or a harder part of them, where one is named."""

    name = "draw"
    source = "from easy to hard: Bengio et al., Curriculum Learning, ICML 2009"
    when = "a round begins with prompts of the tasks"
    Options: ClassVar[type[StageOptions]] = DrawOptions
    options: DrawOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.options.of is None else (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        low, high = self.options.part
        found = lines[self.options.of or ""]
        part = max(round(high * found) - round(low * found), 1)
        return StagePlan({self.options.to: min(part, self.options.count or part)})

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        found = place.read(ask.of) if ask.of is not None else _all(place.tasks, ask.split)
        looked_at: list[str] = []
        if ask.by is not None:
            hard = [float(len(line.example.prompt)) for line in found]
            if ask.by == "likelihood":
                hard = losses_of(place, found)
                looked_at = [line.label for line in found if not line.own]
            order = sorted(range(len(found)), key=lambda at: (hard[at], at))
            low, high = (round(share * len(found)) for share in ask.part)
            found = [found[at] for at in order[low : max(high, low + 1)]]
        order = numpy_generator(place.seed, "draw").permutation(len(found)).tolist()
        chosen = [found[at] for at in order[: ask.count]]
        return Done({ask.to: chosen}, {"from": len(found), "drawn": len(chosen)}, labels=set(looked_at))


def _all(tasks: Mapping[str, Task], split: str) -> list[Line]:
    return [line for task in tasks.values() for line in lines_of(task, split)]


def losses_of(place: StagePlace, lines: list[Line]) -> list[float]:
    """Minus the log-likelihood of a token of the first answer of each line, on average, in the parent."""
    import torch

    model = place.load(place.model)
    found = [0.0] * len(lines)
    for name, task in place.tasks.items():
        places = [at for at, line in enumerate(lines) if line.task == name]
        if not places:
            continue
        with torch.inference_mode():
            for batch in encode_examples(model, [lines[at].example for at in places], task, closed=True).batches:
                means = batch.means(-answer_likelihoods(model, batch)[0]).tolist()
                for number, loss in zip(batch.numbers, means, strict=True):
                    found[places[number]] = loss
    return found
