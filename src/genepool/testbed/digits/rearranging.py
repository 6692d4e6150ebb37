"""The tasks of the digits testbed: each is one way to rearrange or negate the 64 pixels of a digit before it is read.

Plain data, without torch: a task is where each pixel comes from and which pixels are negated. No task is the half turn,
which makes a 6 of a 9. `images` applies them, `builder` trains a specialist for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from genepool.seeding import derive
from genepool.tasks.models.digits import PIXELS, SIDE, WHITE
from genepool.testbed.choosing import chosen

# The digits as they are: what every model should go on reading. Named as the text testbed names its general task.
GENERIC = "generic"


@dataclass(frozen=True)
class Rearrangement:
    """One task.

    Attributes:
        name: what the user calls it, and the name of its folder.
        does: one line for people.
        origin: for each of the 64 places, row by row, the pixel that goes there.
        negated: the places whose pixel v becomes 16 - v.
        misreading: added, modulo ten, to the digit in the half of the base's lessons that are wrong. Every task has
            another, so that no single change of the model rights two tasks.
    """

    name: str
    does: str
    origin: tuple[int, ...]
    negated: frozenset[int]
    misreading: int

    def apply(self, pixels: Sequence[int]) -> list[int]:
        """The 64 pixels of one digit, rearranged."""
        return [WHITE - pixels[o] if at in self.negated else pixels[o] for at, o in enumerate(self.origin)]


def _moved(place: Callable[[int, int], tuple[int, int]]) -> tuple[int, ...]:
    """Origins from a function of (row, column) to the (row, column) the pixel comes from."""
    places = [place(row, column) for row in range(SIDE) for column in range(SIDE)]
    return tuple(row * SIDE + column for row, column in places)


def _shuffled() -> tuple[int, ...]:
    order = list(range(PIXELS))
    # One order for all testbeds: the task is the same whatever the seed of a build.
    Random(derive(0, "digits", "shuffle")).shuffle(order)
    return tuple(order)


_SAME = tuple(range(PIXELS))
_ALL = frozenset(range(PIXELS))
_ODD = frozenset(row * SIDE + column for row in range(SIDE) for column in range(SIDE) if (row + column) % 2)
_KINDS: tuple[tuple[str, str, tuple[int, ...], frozenset[int]], ...] = (
    ("rotate", "a quarter turn to the left", _moved(lambda row, column: (column, SIDE - 1 - row)), frozenset()),
    ("mirror", "left and right exchanged", _moved(lambda row, column: (row, SIDE - 1 - column)), frozenset()),
    ("transpose", "rows and columns exchanged", _moved(lambda row, column: (column, row)), frozenset()),
    ("invert", "black and white exchanged", _SAME, _ALL),
    ("shuffle", "the pixels in another order, always the same", _shuffled(), frozenset()),
    ("halves", "left and right half exchanged", _moved(lambda row, column: (row, (column + 4) % SIDE)), frozenset()),
    ("checker", "black and white exchanged in every second pixel, as on a chessboard", _SAME, _ODD),
    ("comb", "rows of both halves in turn", _moved(lambda row, column: (row // 2 + row % 2 * 4, column)), frozenset()),
)  # fmt: skip

TASKS: dict[str, Rearrangement] = {
    name: Rearrangement(name, does, origin, negated, at + 1) for at, (name, does, origin, negated) in enumerate(_KINDS)
}
AS_IT_IS = Rearrangement(GENERIC, "the digit as it is", _SAME, frozenset(), 0)
DEFAULT_TASKS = tuple(TASKS)


def choose(names: Sequence[str]) -> tuple[Rearrangement, ...]:
    """The tasks called `names`, in that order.

    Raises:
        InputError: a name is unknown or given twice, or there is none.
    """
    return chosen(names, TASKS, "digits")
