"""The stage `process`: a process reward model learns from a search's own steps, and judges samples by theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import yaml
from pydantic import Field

from genepool import staging
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.folder import JOURNAL_FILE, read_result
from genepool.training.journal import Journal
from genepool.training.loops.data import Line
from genepool.training.loops.judging import voted
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace
from genepool.training.opened_training import OpenedTraining
from genepool.training.process_scores import By, answer_scores
from genepool.training.recipe import Training
from genepool.training.reward_ensemble import RewardModelSource
from genepool.training.run import Run


class ProcessOptions(StageOptions):
    """Options of `process`."""

    of: str = Field(default="samples", description="Lines whose samples are judged.")
    known: str = Field(default="steps", description="Lines of steps that the model learns from, as `search` writes.")
    to: str = Field(default="judged", description="Name of the lines that it writes: what it says as their rewards.")
    step: str = Field(default="\n", min_length=1, description="The text that ends a step.")
    by: By = Field(
        default="min",
        description="What the chances of an answer's steps become: the smallest, their product, the last, or the mean.",
    )
    steps: int = Field(default=100, ge=1, description="Optimiser steps of the process reward model.")
    batch: int | None = Field(default=None, ge=1, description="Steps of answers in each of them.")
    learning_rate: float | None = Field(default=None, gt=0, description="Its largest learning rate.")
    look_back: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="How much a step's label loses for being worth less than the step before it, and gains for more.",
    )
    hard_above: float | None = Field(
        default=None, ge=0, lt=1, description="Count labels above this as 1 and others as 0; null: labels are soft."
    )
    shuffled: bool = Field(default=False, description="Give the labels to other steps: the control.")


class ProcessStage(Stage):
    """Trains a process reward model on the values of a tree's steps, and gives each sample what it says of it.

    The label of a step is the share of right answers among those that went through it. The model begins as the parent,
    with factors and a head of its own. What is said is how good the sample is that it would choose of each prompt, by
    the rewards that the samples have, beside the first one, the most frequent one and the best one.
    """

    name = "process"
    source = (
        "Jiang et al., MedS3, arXiv:2501.12051: soft labels of both sides; looking back as in the authors' code, where "
        "it is 1 with labels counted as right above 0"
    )
    when = "a search has shown which steps lead to right answers, and samples are to be chosen by it"
    resumes = True
    Options: ClassVar[type[StageOptions]] = ProcessOptions
    options: ProcessOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return self.options.of, self.options.known

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        known = [line for line in place.read(ask.known) if line.rewards]
        lines = [line for line in place.read(ask.of) if line.samples]
        for name, found, before in ((ask.known, known, "search"), (ask.of, lines, "sample")):
            if not found:
                raise InputError(
                    f"'{name}' holds nothing to learn from or to judge",
                    where=place.folder,
                    fix=f"Put a stage `{before}` before it",
                )
        rows = labelled_steps(known, ask.look_back)
        if ask.shuffled:
            order = numpy_generator(place.seed, "shuffled labels").permutation(len(rows)).tolist()
            rows = [(*row[:3], rows[other][3]) for row, other in zip(rows, order, strict=True)]
        source, steps = self._trained(place, rows)
        judge = source.load(place.device, place.loop.dtype)
        flat = [(line, one) for line in lines for one in line.samples]
        asked = [(place.tasks[line.task], line.example) for line, _ in flat]
        scores = iter(answer_scores(judge, asked, [one.text for _, one in flat], ask.step, ask.by))
        judged = []
        for line in lines:
            samples = tuple(replace(one, reward=_number(next(scores))) for one in line.samples)
            judged.append(replace(line, samples=samples))
        labels = {line.label for line in known if not line.own}
        return Done({ask.to: judged}, {"steps": len(known), **choices(lines, judged)}, steps=steps, labels=labels)

    def _trained(self, place: StagePlace, rows: Sequence[tuple[str, str, str, float]]) -> tuple[RewardModelSource, int]:
        """The process reward model, trained on (task, prompt, step, label), and how many steps that took."""
        ask, loop = self.options, place.loop
        folders = []
        for name in sorted({task for task, *_ in rows}):
            folder = place.folder / "data" / name
            settings = place.tasks[name].settings.model_dump(mode="json", exclude_defaults=True, exclude={"columns"})
            own = [row for row in rows if row[0] == name]
            text = "".join(
                json.dumps({"id": str(at), "prompt": prompt, "completion": step, "label": label}) + "\n"
                for at, (_, prompt, step, label) in enumerate(own, 1)
            )
            with staging.staged_folder(folder, overwrite=True) as unfinished:
                (unfinished / "train.jsonl").write_text(text, encoding="utf-8")
                (unfinished / "task.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
            folders.append(str(folder))
        keys = {"batch": ask.batch, "learning_rate": ask.learning_rate}
        recipe: Training = loop.training_of(
            base=place.model, tasks=folders, seed=place.seed, steps=ask.steps, objective="process_reward",
            options={} if ask.hard_above is None else {"hard_above": ask.hard_above}, teacher=None, shares=None,
            portions=None, average=None, form="lora",
            **{key: value for key, value in keys.items() if value is not None},
        )  # fmt: skip
        out = place.folder / "run"
        out.mkdir(exist_ok=True)
        opened = OpenedTraining.open(recipe, others=False, trusted=place.trusted, allow_pickle=place.allow_pickle)
        with Journal(out / JOURNAL_FILE) as journal:
            run = Run(opened, out, journal, device=place.device)
            run.begin()
            told: dict[str, Any] | None = read_result(out)
            if told is None:
                run.train()
                told = run.finish_unmeasured()
        return RewardModelSource(out / told["result"], opened.base), told["steps"]


def labelled_steps(lines: Sequence[Line], look_back: float) -> list[tuple[str, str, str, float]]:
    """The steps of trees as (task, prompt, step, label).

    Args:
        lines: one for each step: the prompt with what was written before, the step, and its value.
        look_back: v - look_back (w - v), from 0 to 1, is the label of a step worth v behind a step worth w.
    """
    worth = {(one.task, one.example.prompt + one.example.answer): one.rewards[0] for one in lines}
    found = []
    for one in lines:
        value = one.rewards[0]
        before = worth.get((one.task, one.example.prompt), value)
        label = min(1.0, max(0.0, value - look_back * (before - value)))
        found.append((one.task, one.example.prompt, one.example.answer, label))
    return found


def choices(lines: Sequence[Line], judged: Sequence[Line]) -> dict[str, float]:
    """The mean reward of the samples that would be chosen of each prompt, by the rewards that the samples had before.

    Args:
        lines: samples with the rewards they had.
        judged: the same with what the process reward model says instead.
    """
    told: dict[str, list[float]] = {"chosen": [], "first": [], "vote": [], "best": []}
    for line, other in zip(lines, judged, strict=True):
        vote = voted(line)
        if vote is None:
            continue
        told["chosen"].append(line.samples[chosen_sample(other)].reward or 0.0)
        told["first"].append(line.samples[0].reward or 0.0)
        told["vote"].append(vote)
        told["best"].append(max(line.rewards))
    return {name: sum(values) / len(values) for name, values in told.items() if values}


def chosen_sample(line: Line) -> int:
    """The number of the sample with the highest reward; the first of equal ones, and 0 where none is rewarded."""
    rewards = [-1.0 if one.reward is None else one.reward for one in line.samples]
    return rewards.index(max(rewards))


def _number(value: float) -> float | None:
    return value if value == value else None
