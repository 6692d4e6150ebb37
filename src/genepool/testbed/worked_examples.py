"""Prompts that name no skill: worked examples of input and output, then an input. The skill must be inferred.

`abcd:dcba;efgh:hgfe;ijkl:` asks for the reverse in the skills' own way; with `|` for `:` it is asked for as in
pre-training. The testbed `untagged` asks like this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from genepool.testbed.data import Lengths, Mixture, StringExample, draw_input
from genepool.testbed.skills import StringTask

OWN, PRETRAINING, BETWEEN = ":", "|", ";"
_ANSWERS = re.compile(r"\|([^;]+);")


class WorkedExamples:
    """Prompts with worked examples that fit one skill only.

    Args:
        skills: all that a prompt could mean, primitives included: the examples of a prompt fit no other of them.
        lengths: of the inputs of the examples. They are of the training split, so a test input is never shown.
        count: worked examples in a prompt.
    """

    def __init__(self, skills: Sequence[StringTask], lengths: Lengths, count: int) -> None:
        self._skills, self._lengths, self._count = tuple(skills), lengths, count

    def own(self, skill: StringTask, text: str, generator: Random) -> str:
        """See `genepool.testbed.data.Prompts`."""
        return self._prompt(skill, text, generator, OWN)

    def pretraining(self, skill: StringTask, text: str, generator: Random) -> str:
        """See `genepool.testbed.data.Prompts`."""
        return self._prompt(skill, text, generator, PRETRAINING)

    def _prompt(self, skill: StringTask, text: str, generator: Random, arrow: str) -> str:
        shown = [f"{one}{arrow}{skill.answer(one)}{BETWEEN}" for one in self._inputs(skill, text, generator)]
        return f"{''.join(shown)}{text}{arrow}"

    def _inputs(self, skill: StringTask, text: str, generator: Random) -> list[str]:
        """Inputs, none of them `text`, whose answers no other skill gives."""
        while True:
            inputs = [draw_input(generator, self._lengths, "train") for _ in range(self._count)]
            answers = [skill.answer(one) for one in inputs]
            others = (one for one in self._skills if one.name != skill.name)
            fits = any([other.answer(one) for one in inputs] == answers for other in others)
            if text not in inputs and not fits:
                return inputs


class WorkedMixture(Mixture):
    """The mixture of the text testbed in prompts with worked examples.

    In every second lesson of pre-training the tag stands before the examples: a skill is learned by its tag first, and
    then recognised without. The answers of the examples are learned too. Nothing that is asked later has a tag.
    """

    def _clean(self, skill: StringTask, generator: Random) -> StringExample:
        example = super()._clean(skill, generator)
        prompt = f"{skill.pretraining_tag if generator.random() < 0.5 else ''}{example.prompt}"
        # Without a tag nothing tells the answer of the first example.
        learned = tuple(found.span(1) for found in _ANSWERS.finditer(prompt))
        return StringExample(prompt, example.answer, learned if prompt != example.prompt else learned[1:])
