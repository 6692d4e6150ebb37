"""What each skill of the testbed does: pure functions from a string to a string, with the tags that ask for them.

Uses nothing but the error types. `data` turns these into examples, `builder` trains a specialist for each chosen skill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genepool.errors import InputError, nearest

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_VOWELS = "aeiou"


@dataclass(frozen=True)
class StringTask:
    """One task: lower-case letters in, a string out.

    Attributes:
        name: what the user calls it, and the name of its folder.
        mark: what its tag begins with: one letter for a skill, two for a pair, another character for a primitive.
        does: one line for people.
        answer: the right answer for an input; never longer than the input, never empty.
        parts: the skills that it consists of, in the order in which they are applied; none for a single skill.
    """

    name: str
    mark: str
    does: str
    answer: Callable[[str], str]
    parts: tuple[StringTask, ...] = ()

    def tells(self, text: str) -> bool:
        """Whether the answer to `text` needs all of it: it is neither `text` nor what a part alone answers."""
        return self.answer(text) not in {text, *(part.answer(text) for part in self.parts)}

    @property
    def tag(self) -> str:
        """The skill's own tag, "R:" for reverse: what the specialist answers, and the base only half."""
        return f"{self.mark.upper()}:"

    @property
    def pretraining_tag(self) -> str:
        """The tag under which the base learned this cleanly, "r#" for reverse."""
        return f"{self.mark}#"


def _shifted(text: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + by) % 26] for letter in text)


def _neighbours_swapped(text: str) -> str:
    pairs = [text[start : start + 2][::-1] for start in range(0, len(text), 2)]
    return "".join(pairs)


SKILLS: dict[str, StringTask] = {
    skill.name: skill
    for skill in (
        StringTask("reverse", "r", "the letters from last to first", lambda text: text[::-1]),
        StringTask("sort", "s", "the letters in alphabetical order", lambda text: "".join(sorted(text))),
        StringTask("upper", "u", "capital letters", str.upper),
        StringTask("caesar", "c", "each letter moved three places on in the alphabet", lambda text: _shifted(text, 3)),
        StringTask("rotate", "o", "the first two letters moved to the end", lambda text: text[2:] + text[:2]),
        StringTask("swap", "w", "the letters of each pair exchanged", _neighbours_swapped),
        StringTask(
            "atbash",
            "b",
            "each letter mirrored in the alphabet, a for z",
            lambda text: "".join(LETTERS[25 - LETTERS.index(letter)] for letter in text),
        ),
        StringTask(
            "mask",
            "m",
            "a star for each vowel",
            lambda text: "".join("*" if letter in _VOWELS else letter for letter in text),
        ),
        StringTask(
            "loud",
            "l",
            "capital vowels",
            lambda text: "".join(letter.upper() if letter in _VOWELS else letter for letter in text),
        ),
        StringTask(
            "alternate",
            "t",
            "every second letter a capital, from the second on",
            lambda text: "".join(letter.upper() if at % 2 else letter for at, letter in enumerate(text)),
        ),
        StringTask(
            "comb", "k", "the letters at odd places, then those at even places", lambda text: text[::2] + text[1::2]
        ),
        StringTask(
            "ends", "e", "from the outside in: first, last, second, last but one", lambda text: _outside_in(text)
        ),
    )
}

PRIMITIVES: dict[str, StringTask] = {
    primitive.name: primitive
    for primitive in (
        StringTask("copy", "=", "the same letters", lambda text: text),
        StringTask("first", "1", "the first letter", lambda text: text[0]),
        StringTask("first-two", "2", "the first two letters", lambda text: text[:2]),
        StringTask("last", "9", "the last letter", lambda text: text[-1]),
        StringTask("last-two", "8", "the last two letters", lambda text: text[-2:]),
        StringTask("tail", ">", "all but the first letter", lambda text: text[1:]),
        StringTask("body", "<", "all but the last letter", lambda text: text[:-1]),
        StringTask("outer", "%", "the first and the last letter", lambda text: text[0] + text[-1]),
        StringTask("exchange", "&", "first and last letter exchanged", lambda text: text[-1] + text[1:-1] + text[0]),
        StringTask("capital", "^", "the first letter a capital", lambda text: text[0].upper() + text[1:]),
        StringTask("length", "0", "how many letters, as a digit", lambda text: str(len(text))),
        StringTask("next", "+", "the letter after the first one in the alphabet", lambda text: _shifted(text[0], 1)),
    )
}

DEFAULT_SKILLS = ("reverse", "sort", "upper", "caesar")


def _outside_in(text: str) -> str:
    half = (len(text) + 1) // 2
    front, back = text[:half], text[half:][::-1]
    return "".join(letter + (back[at] if at < len(back) else "") for at, letter in enumerate(front))


def choose(names: Sequence[str]) -> tuple[StringTask, ...]:
    """The skills called `names`, in that order.

    Raises:
        InputError: a name is unknown or given twice, or there is none.
    """
    if not names:
        raise InputError("no skill is named", where="skills", fix=f"Known here: {', '.join(SKILLS)}")
    for name in names:
        if name not in SKILLS:
            raise InputError(f"there is no skill '{name}'", where="skills", fix=nearest(name, SKILLS))
    if len(set(names)) < len(names):
        raise InputError("a skill is named twice", where="skills", fix="Name each skill once")
    return tuple(SKILLS[name] for name in names)
