"""Examples and where they belong: prompts and answers, the split by a hash of the input, the mixtures to train on.

Uses the skills and genepool's seeds, nothing heavy. `training` learns from this, `builder` writes the task
files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, Protocol

from genepool.seeding import derive
from genepool.testbed.skills import LETTERS, PRIMITIVES, StringTask

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
COUNTS: dict[Split, int] = {"train": 4096, "valid": 512, "test": 1024}
GENERIC = "generic"
# Under a skill's own tag the base sees the right answer in 40% of examples and the bare input otherwise: a base
# that half holds a task, as large ones do, for fine-tuning to bring out. The order in which they take turns.
HALF_KNOWN = (True, False, True, False, False)
# Shares of the pre-training mixture; what is left are the skills' own tags.
PRIMITIVE_SHARE = 0.25
CLEAN_SHARE = 0.5


@dataclass(frozen=True)
class StringExample:
    """One thing to learn or to be asked: the model reads `prompt` and should write `answer` and stop.

    Attributes:
        learned: parts of the prompt that training teaches to write too, as places in it: from, and to but without.
    """

    prompt: str
    answer: str
    learned: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Lengths:
    """How long inputs are, in letters, both ends included."""

    shortest: int
    longest: int


def split_of(text: str) -> Split:
    """The split an input string belongs to, for every task alike: 80% train, 8% valid, 12% test.

    It depends on the string alone, so no input can be in two splits, whatever the seed, the skill or the size.
    """
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "valid" if bucket < 88 else "test"


def draw_input(generator: Random, lengths: Lengths, split: Split) -> str:
    """A random string of lower-case letters that belongs to `split`."""
    while True:
        text = "".join(generator.choices(LETTERS, k=generator.randint(lengths.shortest, lengths.longest)))
        if split_of(text) == split:
            return text


class Prompts(Protocol):
    """How a model is asked for a skill: reliably as in pre-training, or in the skills' own way."""

    def own(self, skill: StringTask, text: str, generator: Random) -> str:
        """What the specialist answers, and the base only half.

        Args:
            generator: draws whatever the prompt holds beside `text`.
        """

    def pretraining(self, skill: StringTask, text: str, generator: Random) -> str:
        """What the base learned to answer cleanly."""


class Tags:
    """Prompts that name the skill: `R:abcd=`, and `r#abcd=` in pre-training."""

    def own(self, skill: StringTask, text: str, generator: Random) -> str:
        """See `Prompts`."""
        return f"{skill.tag}{text}="

    def pretraining(self, skill: StringTask, text: str, generator: Random) -> str:
        """See `Prompts`."""
        return f"{skill.pretraining_tag}{text}="


TAGS = Tags()


def task_items(
    task: str,
    skills: Sequence[StringTask],
    split: Split,
    seed: int,
    lengths: Lengths,
    prompts: Prompts = TAGS,
    primitives: Sequence[StringTask] = tuple(PRIMITIVES.values()),
) -> list[StringExample]:
    """The items of one task and split: no input twice, none that the skill leaves as it is.

    Args:
        task: the task's name; part of the seed, so tasks draw different inputs.
        skills: the skills that are asked for in turn, in their own way; none for the generic task, which asks for
            each primitive in turn as in pre-training.
        prompts: how they are asked for.
        primitives: what the generic task asks for.
    """
    generator = Random(derive(seed, "items", task, split))
    items: list[StringExample] = []
    seen: set[str] = set()
    while len(items) < COUNTS[split]:
        text = draw_input(generator, lengths, split)
        skill = _turn(skills or primitives, len(items))
        # An unchanged input (a sorted one, to sort) is answered by copying: it says nothing about the skill.
        if text in seen or (skills and not skill.tells(text)):
            continue
        seen.add(text)
        prompt = (prompts.own if skills else prompts.pretraining)(skill, text, generator)
        items.append(StringExample(prompt, skill.answer(text)))
    return items


def write_items(path: Path, task: str, split: Split, items: Sequence[StringExample]) -> None:
    """One JSON object a line: {"id", "prompt", "answer"}."""
    with open(path, "w", encoding="utf-8") as file:
        for at, item in enumerate(items):
            row = {"id": f"{task}-{split}-{at:04d}", "prompt": item.prompt, "answer": item.answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


class Mixture:
    """What models are trained on; every example's input is from the training split.

    Args:
        skills: the skills the base is to hold.
        teach_base: whether the base learns the skills at all (the elicit regime) or only the primitives (acquire).
        prompts: how skills are asked for.
        primitives: what the base learns beside the skills.
    """

    def __init__(
        self,
        skills: Sequence[StringTask],
        lengths: Lengths,
        seed: int,
        *,
        teach_base: bool,
        prompts: Prompts = TAGS,
        primitives: Sequence[StringTask] = tuple(PRIMITIVES.values()),
    ) -> None:
        self.skills, self.lengths, self.seed, self.teach_base = tuple(skills), lengths, seed, teach_base
        self.prompts, self.primitives = prompts, tuple(primitives)

    def base_batch(self, step: int, size: int) -> list[StringExample]:
        """Step `step` of pre-training: primitives, skills under the pre-training tag, own tags half right."""
        return self._pretraining(Random(derive(self.seed, "base", step)), step, size, self.skills)

    def specialist_batches(
        self, name: str, items: Sequence[StringExample], replay: float
    ) -> Callable[[int, int], list[StringExample]]:
        """Batches for the specialist `name`: its training items in shuffled rounds, and a share of pre-training.

        Args:
            items: the training items of the specialist's own task.
            replay: the share of a batch that is drawn from the pre-training mixture instead.
        """
        order = self._rounds(name, len(items))
        # Replay keeps what the base had; half-right answers under the very tag that is being taught are not kept.
        others = tuple(skill for skill in self.skills if skill.name != name)

        def batch(step: int, size: int) -> list[StringExample]:
            old = round(replay * size)
            replayed = self._pretraining(Random(derive(self.seed, "replay", name, step)), step, old, others)
            return [items[next(order)] for _ in range(size - old)] + replayed

        return batch

    def _rounds(self, name: str, count: int) -> Iterator[int]:
        turn = 0
        while True:
            order = list(range(count))
            Random(derive(self.seed, "order", name, turn)).shuffle(order)
            yield from order
            turn += 1

    def _pretraining(
        self, generator: Random, step: int, size: int, half_known: tuple[StringTask, ...]
    ) -> list[StringExample]:
        """`size` examples; what each is about goes round in turn, and only its input is drawn.

        Independent draws of the kind would let a batch's balance of right answers and bare inputs wander, and with
        it how much the finished base half knows: its score on one skill then differs by .4 between seeds.
        """
        if not self.teach_base:
            return [self._clean(_turn(self.primitives, step * size + at), generator) for at in range(size)]
        primitives, clean = round(PRIMITIVE_SHARE * size), round(CLEAN_SHARE * size)
        if not half_known:
            clean = size - primitives
        own = size - primitives - clean
        examples = [self._clean(_turn(self.primitives, step * primitives + at), generator) for at in range(primitives)]
        examples += [self._clean(_turn(self.skills, step * clean + at), generator) for at in range(clean)]
        for turn in range(step * own, (step + 1) * own):
            skill, text = _turn(half_known, turn), self._draw(generator)
            knows = HALF_KNOWN[turn // len(half_known) % len(HALF_KNOWN)]
            prompt = self.prompts.own(skill, text, generator)
            examples.append(StringExample(prompt, skill.answer(text) if knows else text))
        return examples

    def _clean(self, skill: StringTask, generator: Random) -> StringExample:
        text = self._draw(generator)
        return StringExample(self.prompts.pretraining(skill, text, generator), skill.answer(text))

    def _draw(self, generator: Random) -> str:
        return draw_input(generator, self.lengths, "train")


def _turn(skills: Sequence[StringTask], at: int) -> StringTask:
    return skills[at % len(skills)]
