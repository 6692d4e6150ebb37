"""What a stream of a testbed is called, how it comes, and what all of them share. Light: no numpy, no torch."""

from __future__ import annotations

from dataclasses import dataclass

#: The severity of streams that have one.
SEVERITY = 3
SEVERITIES = range(1, 6)
BATCH = 64
#: How often a stream is gone through: one round hides a collapse.
ROUNDS = 15


@dataclass(frozen=True)
class StreamFolder:
    """A stream to write.

    Attributes:
        name: of its folder.
        order: in which it comes.
        severities: one, or all where the examples are shared out among them.
        tail: the classes are long-tailed, first one way and then the other.
        clean: nothing is spoilt.
        swapped: after all of them come the same examples once more, with the labels of neighbouring classes exchanged.
    """

    name: str
    order: str
    severities: tuple[int, ...] = (SEVERITY,)
    tail: bool = False
    clean: bool = False
    swapped: bool = False
