"""Two skills after each other, as a task that no specialist was trained on: `RU:abcd=` asks for `DCBA`.

The base hears of pairs in pre-training, where it obeys each half of a tag on its own in 40% of the examples. A
specialist brings out one half; only what holds both skills answers right. The testbed `pairs` is made of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random

from genepool.errors import InputError
from genepool.seeding import derive
from genepool.testbed.data import HALF_KNOWN, Lengths, Mixture, StringExample
from genepool.testbed.skills import LETTERS, StringTask

# Of a batch of pre-training: half under the pre-training tags, half under the skills' own.
PAIR_SHARE = 0.4
# Tells whether an answer is lower-case letters, which is what the second skill of a pair takes, and pairs apart.
_SAMPLES = ("hegfab", "zyqaxe", "mnoicd")


def pair_of(first: StringTask, second: StringTask) -> StringTask:
    """The task to apply `first` and then `second`.

    Args:
        first: a skill whose answers are lower-case letters.
    """
    return StringTask(
        f"{first.name}_{second.name}",
        first.mark + second.mark,
        f"{first.does}; of that, {second.does}",
        lambda text: second.answer(first.answer(text)),
        (first, second),
    )


def pairs_of(skills: Sequence[StringTask]) -> tuple[StringTask, ...]:
    """One pair of every two skills that make one: in the order given, or else the other way round.

    Two skills make a pair when the first answers in lower-case letters and neither of them alone gives the pair's
    answer: what is reversed and then sorted is only sorted.

    Raises:
        InputError: no two of the skills make a pair.
    """
    found = []
    for one, other in combinations(skills, 2):
        made = [pair_of(*both) for both in ((one, other), (other, one)) if _is_pair(*both)]
        found += made[:1]
    if not found:
        raise InputError(
            f"no two of the skills make a pair (got {', '.join(skill.name for skill in skills)})",
            where="skills",
            fix="Name two skills, one of which answers in lower-case letters",
        )
    return tuple(found)


def _is_pair(first: StringTask, second: StringTask) -> bool:
    lower = all(letter in LETTERS for text in _SAMPLES for letter in first.answer(text))
    return lower and any(pair_of(first, second).tells(text) for text in _SAMPLES)


class PairMixture(Mixture):
    """The mixture of the text testbed, and pairs among what the base learns; specialists never meet one.

    Args:
        pairs: made of the skills.
    """

    def __init__(self, skills: Sequence[StringTask], pairs: Sequence[StringTask], lengths: Lengths, seed: int) -> None:
        super().__init__(skills, lengths, seed, teach_base=True)
        self.pairs = tuple(pairs)

    def base_batch(self, step: int, size: int) -> list[StringExample]:
        """See `Mixture.base_batch`."""
        own = round(PAIR_SHARE / 2 * size)
        generator = Random(derive(self.seed, "pairs", step))
        examples = super().base_batch(step, size - 2 * own)
        for turn in range(step * own, (step + 1) * own):
            pair = self.pairs[turn % len(self.pairs)]
            examples.append(self._clean(pair, generator))
            # Each half takes its turns on its own, so all four ways to know the two come up in their shares.
            at = turn // len(self.pairs)
            told = text = self._draw(generator)
            for place, part in zip((at, at // len(HALF_KNOWN)), pair.parts, strict=True):
                told = part.answer(told) if HALF_KNOWN[place % len(HALF_KNOWN)] else told
            examples.append(StringExample(self.prompts.own(pair, text, generator), told))
        return examples
