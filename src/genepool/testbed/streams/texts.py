"""Texts of six made-up languages, and eight ways in which their surface drifts, each with five severities.

A language has syllables of its own, and a text holds mostly these. What is drawn belongs to (seed, what, number), never
to the severity, so that a severity only does more of the same. Plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from genepool.seeding import derive
from genepool.testbed.skills import LETTERS

#: What the languages are called: one token each.
LANGUAGES = ("U", "V", "W", "X", "Y", "Z")
_VOWELS = "aeiou"
_CONSONANTS = "".join(letter for letter in LETTERS if letter not in _VOWELS)
# Syllables of a language; syllables of a text, and the share that is of its own language.
_OWN, _LENGTH, _SHARE = 8, 6, 0.75
#: Shares of the letters that a drift changes, by severity.
_SHARES = (0.1, 0.2, 0.3, 0.45, 0.6)
_LOOKALIKES = dict(zip("aeiostbgz", "431057892", strict=True)) | {"u": "v"}


class Languages:
    """The languages of a seed.

    Args:
        seed: decides which syllables each has.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        syllables = [first + second for first in _CONSONANTS for second in _VOWELS]
        Random(derive(seed, "languages")).shuffle(syllables)
        self._syllables = {name: syllables[at * _OWN : (at + 1) * _OWN] for at, name in enumerate(LANGUAGES)}
        self._all = syllables[: len(LANGUAGES) * _OWN]

    def text(self, language: str, generator: Random) -> str:
        """A text of a language, twelve letters: every syllable is its own, or any, by chance."""
        own = self._syllables[language]
        return "".join(generator.choice(own if generator.random() < _SHARE else self._all) for _ in range(_LENGTH))


#: A letter and what is drawn for it, from 0 to 1 -> what is written instead.
_Change = Callable[[str, float], str]


def _typo(_: str, draw: float) -> str:
    """Any letter."""
    return LETTERS[int(draw * len(LETTERS))]


def _look_alike(letter: str, _: float) -> str:
    """A digit that looks like it, where one does."""
    return _LOOKALIKES.get(letter, letter)


def _next(letter: str, _: float) -> str:
    """The letter that follows in the alphabet, a after z."""
    return LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)]


_CHANGES: dict[str, _Change] = {
    "typos": _typo,
    "dropped": lambda _letter, _draw: "",
    "doubled": lambda letter, _draw: 2 * letter,
    "upper": lambda letter, _draw: letter.upper(),
    "lookalikes": _look_alike,
    "spaced": lambda letter, _draw: f"{letter} ",
    "shifted": _next,
}
#: The drifts, by name; `swapped` exchanges neighbours, the others change letters one by one.
DRIFTS = (*_CHANGES, "swapped")


def drifted(text: str, name: str, severity: int, seed: int, number: int) -> str:
    """One text whose surface has drifted; never empty.

    Args:
        text: lower-case letters.
        name: of the drift.
        severity: from 1 to 5.
        seed: of the draws.
        number: of the text.
    """
    generator, share = Random(derive(seed, "drift", name, number)), _SHARES[severity - 1]
    draws = [(generator.random(), generator.random()) for _ in text]
    if name == "swapped":
        return _swapped(text, [chance < share for chance, _ in draws])
    change = _CHANGES[name]
    found = "".join(
        change(letter, draw) if chance < share else letter for letter, (chance, draw) in zip(text, draws, strict=True)
    )
    return found.rstrip() or text[0]


def _swapped(text: str, at: list[bool]) -> str:
    """The letters of each pair exchanged where its first letter says so."""
    pairs = [(text[place : place + 2], at[place]) for place in range(0, len(text), 2)]
    return "".join(pair[::-1] if swap else pair for pair, swap in pairs)
