"""The stage `select`: which of its own answers the model learns from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace


class SelectOptions(StageOptions):
    """Options of `select`."""

    of: str = Field(default="samples", description="Lines whose samples are chosen from.")
    to: str = Field(default="lessons", description="Name of the lines that it writes.")
    by: Literal["best", "bradley_terry", "all"] = Field(
        default="best",
        description="best: the first sample with the highest reward; bradley_terry: one drawn with a probability "
        "proportional to exp(reward / scale); all: every different one.",
    )
    scale: float = Field(default=1.0, gt=0, description="Of rewards in `bradley_terry`; small ones prefer the best.")
    at_least: float | None = Field(default=None, description="Leave out samples with a reward below this.")
    real: float = Field(
        default=0.0, ge=0, lt=1, description="Share of known answers among the lessons, of the same prompts."
    )


class Select(Stage):
    """Chooses answers to learn from among the samples of each prompt, by their rewards."""

    name = "select"
    source = (
        "best: best-of-n fine-tuning, Dong et al., RAFT, arXiv:2304.06767; bradley_terry: Ferbach et al., "
        "Self-Consuming Generative Models with Curated Data, arXiv:2407.09499"
    )
    when = "good answers are to be imitated"
    Options: ClassVar[type[StageOptions]] = SelectOptions
    options: SelectOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = place.read(ask.of)
        chosen: list[Line] = []
        for line in lines:
            for one in self._chosen(line, place.seed):
                example = replace(line.example, answers=(one.text,), rejected=())
                chosen.append(Line(line.task, example, (one,), own=True))
        if not chosen:
            least = "" if ask.at_least is None else f" with a reward of at least {ask.at_least:g}"
            raise InputError(
                f"none of the samples of {len(lines)} prompts is valid: there is no text{least}",
                where=place.folder,
                fix="Lower `at_least`, draw more samples, or teach the task first",
            )
        rewards = [one.reward for line in chosen for one in line.samples if one.reward is not None]
        told = {
            "chosen": len(chosen),
            "prompts": len({line.label for line in chosen}),
            "different": len({line.example.answer for line in chosen}),
            "reward": sum(rewards) / len(rewards),
        }
        real = self._real(lines, len(chosen), place.seed)
        return Done({ask.to: [*chosen, *real]}, {**told, "real": len(real)}, labels={line.label for line in real})

    def _chosen(self, line: Line, seed: int) -> list[WrittenAnswer]:
        ask = self.options
        valid = [one for one in line.samples if one.reward is not None and one.text.strip()]
        if ask.at_least is not None:
            valid = [one for one in valid if one.reward is not None and one.reward >= ask.at_least]
        if not valid:
            return []
        rewards = [one.reward or 0.0 for one in valid]
        if ask.by == "best":
            return [valid[rewards.index(max(rewards))]]
        if ask.by == "all":
            return list({one.text: one for one in reversed(valid)}.values())[::-1]
        weights = [math.exp((reward - max(rewards)) / ask.scale) for reward in rewards]
        total = sum(weights)
        generator = numpy_generator(seed, "select", line.task, line.example.key)
        return [valid[int(generator.choice(len(valid), p=[weight / total for weight in weights]))]]

    def _real(self, lines: list[Line], own: int, seed: int) -> list[Line]:
        """Known answers, so that they are a share `real` of all lessons; each prompt at most once."""
        known = [replace(line, samples=()) for line in lines if not line.own]
        wanted = min(len(known), round(own * self.options.real / (1 - self.options.real)))
        order = numpy_generator(seed, "real").permutation(len(known)).tolist()
        return [known[at] for at in order[:wanted]]
