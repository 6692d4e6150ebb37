"""A testbed of strings with what trainings need of it: data with its price, models that half know a skill, one call.

All of it is made anew in a temporary folder by every process, so nothing is stale; the testbed itself is remembered.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.composition.bed import TINY, Bed
from genepool.tasks import Example, decoding, open_model
from genepool.tasks.models import Source
from genepool.training import Training, run_training, samples
from genepool.training.examples import TrainingExample
from genepool.training.journal import Journal
from genepool.training.loops import Loop, run_loop
from genepool.training.loops.folder import SKILL
from genepool.weights import open_weights

KIND = TINY[1]
#: The skill that is learned; the others and the general task tell what was forgotten.
TARGET = "reverse"
#: Labelled examples that a training may use; validation examples of a run, which choose nothing.
LABELS, LOOKED_AT = 256, 8
#: Optimiser steps and examples of a step, where an arm says nothing else.
STEPS, BATCH = 60, 32
#: Prompts of a step where samples are drawn and rewarded.
PROMPTS = 8
#: Learning rates that are chosen of, on the validation split.
RATES = (3e-4, 1.5e-3, 7e-3)
#: Of labelled data, the share of wrong answers; of noisy pairs, the share that is turned round.
WRONG, FLIPPED = 0.4, 0.2
#: What a model that half knows a skill should score, and one that knows less.
HALF, LESS = 0.45, 0.25
# Steps that are tried for such a model, and the learning rate at which it is trained.
_TRIED, _SLOW = (2, 4, 6, 8, 10, 12, 15, 18, 22, 28, 36), 3e-4
#: Where in the training split the examples of a purpose begin; none shares an example with another.
PLACES = {"main": 0, "half": 1024, "less": 2048, "new": 3072}


@dataclass(frozen=True)
class Data:
    """A task folder to train on, and its price.

    Attributes:
        folder: with train.jsonl, valid.jsonl and test.jsonl.
        labels: examples of which somebody had to know the answer.
        generated: tokens that models wrote for it.
        beside: folders of further tasks that are learned together with it.
    """

    folder: Path
    labels: int
    generated: int = 0
    beside: tuple[Path, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """All of them, as a training file names tasks."""
        return tuple(map(str, (self.folder, *self.beside)))


@dataclass(frozen=True)
class Learned:
    """What a training made, and its price.

    Attributes:
        model: as it is named to genepool; empty where the tasks of the testbed are not asked.
        steps: optimiser steps.
        generated: tokens that were written, for its data and in its steps.
        labels: of its data.
        reward: the mean over the samples of its last step; None where nothing is rewarded.
        numbers: what else it says of itself, by name.
        marks: further marks of 0 or 1, by a name that is no task of the testbed.
        out: the folder of the training.
    """

    model: str
    steps: int = 0
    generated: int = 0
    labels: int = 0
    reward: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, np.ndarray] = field(default_factory=dict)
    out: Path = Path()

    def saying(self, **numbers: float) -> Learned:
        """The same with further numbers."""
        return replace(self, numbers={**self.numbers, **numbers})

    def after(self, earlier: Learned) -> Learned:
        """The same with the steps of a training on the same data that came before."""
        return replace(self, steps=self.steps + earlier.steps)


class LearningBed(Bed):
    """The testbed of one seed. The seed also draws every order and every sample of a training."""

    def __init__(self, seed: int) -> None:
        super().__init__(KIND, seed)
        self._begin()

    def _begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.work = Path(self._folder.name)
        self._runs = 0
        self._sampled: dict[str, Data] = {}
        #: What families keep for their arms, so that it is made once.
        self.shelf: dict[str, Any] = {}

    # ------------------------------------------------------------------ data

    def examples(self, purpose: str, count: int = LABELS, task: str = TARGET) -> list[Example]:
        """Training examples of the target, or of another task, that no other purpose uses."""
        start = PLACES[purpose]
        return list(self.tasks[task].examples("train")[start : start + count])

    def written(
        self,
        name: str,
        lines: Sequence[Mapping[str, Any]],
        labels: int,
        generated: int = 0,
        task: str = TARGET,
        valid: Sequence[Mapping[str, Any]] = (),
        test: Sequence[Mapping[str, Any]] = (),
        like: str = "",
    ) -> Data:
        """Lines as a task folder; the last ones are looked at in a run and choose nothing.

        Args:
            name: of the data.
            lines: in a shape that genepool reads.
            labels, generated: see `Data`.
            task: whose examples they are.
            like: the task of the testbed that is asked alike, where it is not `task`.
            valid, test: lines of these splits, instead of the last ones and of the first test example.
        """
        folder = self.work / "data" / name / task
        folder.mkdir(parents=True)
        for split, part in (("train", lines), ("valid", valid or lines[-LOOKED_AT:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
        (asked, *_) = self.tasks[like or task].examples("test")
        lines = test or [{"prompt": asked.prompt, "answer": asked.answer}]
        (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        told = self.tasks[like or task].settings
        (folder / "task.yaml").write_text(f"metric: {told.metric}\nmax_new_tokens: {told.max_new_tokens}\n")
        return Data(folder, labels, generated)

    def answers(self, purpose: str, task: str = TARGET) -> Data:
        """Prompts with their right answers."""
        lines = [{"prompt": one.prompt, "answer": one.answer} for one in self.examples(purpose, task=task)]
        name = f"answers-{purpose}" if task == TARGET else f"answers-{purpose}-{task}"
        return self.written(name, lines, len(lines), task=task)

    def whole(self, tasks: Sequence[str]) -> Data:
        """Tasks with all of their training examples."""
        first, *others = (self.bed.tasks / task for task in tasks)
        labels = sum(len(self.tasks[task].examples("train")) for task in tasks)
        return Data(first, labels, beside=tuple(others))

    @cached_property
    def labelled(self) -> Data:
        """`answers` of the main examples."""
        return self.answers("main")

    @cached_property
    def wrong(self) -> tuple[list[tuple[Example, str]], int]:
        """The main examples, each with the first of 8 samples of the base that is wrong, and the tokens of all."""
        examples = self.examples("main")
        drawn, tokens = self.drawn(self.base_model, examples, 8, 1.0)
        found = []
        for example, texts in zip(examples, drawn, strict=True):
            # A base that is right eight times in eight has nothing to reject there.
            wrong = next((text for text in texts if text.strip() != example.answer), None)
            if wrong is not None:
                found.append((example, wrong))
        return found, tokens

    @cached_property
    def preferences(self) -> Data:
        """Prompts with the right answer and a wrong one that the base wrote."""
        found, tokens = self.wrong
        lines = [{"prompt": one.prompt, "chosen": one.answer, "rejected": wrong} for one, wrong in found]
        return self.written("pairs", lines, len(lines), tokens)

    @cached_property
    def noisy_preferences(self) -> Data:
        """The same, every so many of them turned round, so that `FLIPPED` are wrong."""
        found, tokens = self.wrong
        lines = [
            {"prompt": one.prompt, **dict(zip(("chosen", "rejected"), self._sides(at, one, wrong), strict=True))}
            for at, (one, wrong) in enumerate(found)
        ]
        return self.written("noisy-preferences", lines, len(lines), tokens)

    @staticmethod
    def _sides(at: int, example: Example, wrong: str) -> tuple[str, str]:
        return (wrong, example.answer) if at % round(1 / FLIPPED) == 0 else (example.answer, wrong)

    @cached_property
    def chosen(self) -> Data:
        """The chosen answers of `preferences` as plain answers; what their other sides cost is theirs too."""
        found, tokens = self.wrong
        lines = [{"prompt": one.prompt, "answer": one.answer} for one, _ in found]
        return self.written("chosen", lines, len(lines), tokens)

    @cached_property
    def marked(self) -> Data:
        """Labelled answers of the main prompts: a right one of each, and wrong ones of the base so that `WRONG` are."""
        lines = [{"prompt": p, "completion": a, "label": good} for p, a, good in self._marked]
        return self.written("marked", lines, len(lines), self.wrong[1])

    @cached_property
    def marked_all(self) -> Data:
        """`marked` without the labels."""
        lines = [{"prompt": p, "answer": a} for p, a, _ in self._marked]
        return self.written("marked-all", lines, len(lines), self.wrong[1])

    @cached_property
    def marked_good(self) -> Data:
        """The good answers of `marked`; all labels were needed to find them."""
        lines = [{"prompt": p, "answer": a} for p, a, good in self._marked if good]
        return self.written("marked-good", lines, len(self._marked), self.wrong[1])

    @cached_property
    def _marked(self) -> list[tuple[str, str, bool]]:
        """Prompt, answer, and whether that is right."""
        found, _ = self.wrong
        bad = round(len(found) * WRONG / (1 - WRONG))
        good = [(one.prompt, one.answer, True) for one, _ in found]
        # A prompt's own answer stands before its wrong one, the last ones with both kinds: a run looks at them.
        turned = [(one.prompt, wrong, False) for one, wrong in found[-bad:]]
        return good[:-bad] + [line for both in zip(good[-bad:], turned, strict=True) for line in both]

    def samples_of(self, teacher: str, count: int) -> Data:
        """Prompts with answers that a teacher drew at temperature 1, so many to each, whether right or wrong."""
        if (name := f"samples-{count}") not in self._sampled:
            examples = self.examples("main")
            drawn, tokens = self.drawn(open_model(open_weights(teacher)).load(), examples, count, 1.0)
            pairs = zip(examples, drawn, strict=True)
            lines = [{"prompt": one.prompt, "answer": text} for one, texts in pairs for text in texts if text.strip()]
            self._sampled[name] = self.written(name, lines, 0, tokens)
        return self._sampled[name]

    def drawn(
        self, model: Any, examples: Sequence[Example], count: int, temperature: float
    ) -> tuple[list[list[str]], int]:
        """Answers that a model draws, `count` to each example, and how many tokens they are."""
        lessons = [TrainingExample(self.tasks[TARGET], example) for example in examples]
        found = samples.draw_samples(model, lessons, count, temperature, seed=self.seed, step=-1)
        texts = [one.text for one in found]
        parted = [texts[start : start + count] for start in range(0, len(texts), count)]
        return parted, sum(len(one.tokens) for one in found)

    # ------------------------------------------------------------------ models

    @property
    def base_name(self) -> str:
        """The base, as it is named to genepool."""
        return str(self.bed.base)

    @cached_property
    def half(self) -> Learned:
        """A model that half knows the target: the number of steps is chosen on the validation split."""
        return self._knowing("half", HALF)

    @cached_property
    def less(self) -> Learned:
        """A model that knows less of it, from other examples."""
        return self._knowing("less", LESS)

    @cached_property
    def new(self) -> Learned:
        """A new version: the base, trained on other examples than the half-knowing model, its old version."""
        return self.learn(self.answers("new"), learning_rate=1.5e-3)

    @cached_property
    def half_way(self) -> Learned:
        """The base after half of the steps on the chosen answers, at the rate that is best for this by itself."""
        made = [self.learn(self.chosen, learning_rate=rate, steps=STEPS // 2) for rate in RATES]
        return max(made, key=lambda one: self.score(one.model))

    @cached_property
    def half_way_of_prompts(self) -> Learned:
        """The same on right answers, with as many of them in a step as trainings by rewards have prompts."""
        made = [self.learn(self.labelled, learning_rate=rate, steps=STEPS // 2, batch=PROMPTS) for rate in RATES]
        return max(made, key=lambda one: self.score(one.model))

    def _knowing(self, purpose: str, wanted: float) -> Learned:
        """More and more steps, until one model knows more than is wanted; the nearest one."""
        data, tried = self.answers(purpose), []
        for steps in _TRIED:
            one = self.learn(data, steps=steps, learning_rate=_SLOW, schedule="constant")
            tried.append((self.score(one.model), one))
            if tried[-1][0] > wanted:
                break
        return min(tried, key=lambda entry: abs(entry[0] - wanted))[1]

    def learn(self, data: Data, *, base: str = "", **settings: Any) -> Learned:
        """A training by the public call, its last state.

        Args:
            data: what it learns from.
            base: what it begins as; the testbed's base when empty.
            settings: keys of a training file.
        """
        steps = settings.pop("steps", STEPS)
        recipe = Training(
            **{
                "base": base or self.base_name, "tasks": data.folders, "steps": steps, "batch": BATCH,
                "every": steps, "patience": 0, "valid": LOOKED_AT, "test": 1, "seed": self.seed, "threads": 1,
                **settings,
            }
        )  # fmt: skip
        self._runs += 1
        out = self.work / "runs" / str(self._runs)
        with counting_tokens() as counted:
            result = run_training(recipe, out, ledger=":memory:")
        with Journal(out / "run.sqlite") as journal:
            reward = journal.means(steps).get(steps, {}).get("reward") if counted[0] else None
        model = f"{recipe.base}+{result.result}"
        return Learned(model, steps, data.generated + counted[0], data.labels, reward, out=out)

    def loop(self, data: Data, *, base: str = "", **settings: Any) -> Learned:
        """A loop by the public call, its last state.

        Args:
            data: its tasks.
            base: what it begins as; the testbed's base when empty.
            settings: keys of a loop file.
        """
        begun = {"base": base or self.base_name, "tasks": data.folders, "test": 1, "seed": self.seed, "threads": 1}
        recipe = Loop(**{**begun, **settings})
        self._runs += 1
        out = self.work / "runs" / str(self._runs)
        told = run_loop(recipe, out, ledger=":memory:").told
        model = f"{recipe.base}+{out / SKILL}"
        return Learned(model, told["steps"], told["tokens_generated"], told["labels"], out=out)

    # ------------------------------------------------------------------ asking

    def source(self, model: str) -> Source:
        """A model by its name."""
        return open_model(open_weights(model))

    def score(self, model: str, tasks: Sequence[str] = (TARGET,)) -> float:
        """The share of the tasks' validation examples that it answers right, each task counting the same."""
        found = self.ask(self.source(model), tasks, "valid")
        return float(np.mean([found[task].mean() for task in tasks]))


class BareBed(LearningBed):
    """The same without the testbed, for arms whose tasks and models are all their own: nothing has to be built."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._begin()


@contextmanager
def counting_tokens() -> Iterator[list[int]]:
    """Inside, the tokens of all samples that trainings draw are counted; what is judged by writing is not."""
    counted, write = [0], decoding.generate_tokens

    def counted_tokens(*arguments: Any, **named: Any) -> Any:
        written = write(*arguments, **named)
        counted[0] += sum(len(one.tokens) for one in written)
        return written

    with patch.object(samples, "generate_tokens", counted_tokens):
        yield counted
