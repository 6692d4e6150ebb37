"""In which order the examples of a stream come: a function of the stream, the order's name, the seed and the round.

Every round of `shuffled`, `correlated`, `reset` and `mixed` is drawn anew. Uses the stream alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genepool.adaptation.stream import Order, Stream
from genepool.adaptation.stream_lines import SEVERITIES
from genepool.errors import InputError
from genepool.seeding import numpy_generator

#: How unequal the classes of a slice are in the order `correlated`: the concentration of Gong et al. (NOTE,
#: arXiv:2208.05117).
CONCENTRATION = 0.1
_UP_AND_DOWN = (*SEVERITIES, *reversed(SEVERITIES[:-1]))


@dataclass(frozen=True)
class PlannedBatch:
    """Which examples come together.

    Attributes:
        number: counted from 0 over all rounds.
        round: counted from 1.
        places: of the examples in the stream.
        fresh: whether the adapter is put back to its start first, as the order says.
    """

    number: int
    round: int
    places: tuple[int, ...]
    fresh: bool = False


def planned(stream: Stream, order: Order, rounds: int, seed: int, size: int | None = None) -> list[PlannedBatch]:
    """All batches of a run.

    A last example that would stand alone goes into the batch before it: many adapters compare the examples of a batch.

    Args:
        stream: the stream.
        order: the name of the order.
        rounds: how often it is gone through.
        seed: of the draws.
        size: examples of a batch; the stream's own when None.

    Raises:
        InputError: the stream lacks what the order needs.
    """
    size = size or stream.batch
    found: list[PlannedBatch] = []
    for number in range(1, rounds + 1):
        parts = _parts(stream, order, seed, number)
        if order != "reset":
            parts = [[place for part in parts for place in part]]
        for part in parts:
            cuts = [part[at : at + size] for at in range(0, len(part), size)]
            if len(cuts) > 1 and len(cuts[-1]) == 1 and size > 1:
                cuts[-2:] = [cuts[-2] + cuts[-1]]
            found += [
                PlannedBatch(len(found) + at, number, tuple(cut), order == "reset" and at == 0)
                for at, cut in enumerate(cuts)
            ]
    return found


def _parts(stream: Stream, order: Order, seed: int, number: int) -> list[list[int]]:
    """The places of the examples of a round, in order; domain by domain where the order knows domains."""
    everything = list(range(len(stream.examples)))
    if order == "file":
        return [everything]
    if order == "mixed":
        return [_shuffled(everything, seed, "mixed", number)]
    by_domain: dict[str, list[int]] = {name: [] for name in stream.domains}
    for place in everything:
        by_domain[stream.examples[place].domain].append(place)
    if order == "correlated":
        return [_correlated(stream, places, seed, name, number) for name, places in by_domain.items()]
    shuffled = {name: _shuffled(places, seed, name, number) for name, places in by_domain.items()}
    if order == "gradual":
        return [_gradual(stream, places) for places in shuffled.values()]
    return list(shuffled.values())


def _shuffled(places: Sequence[int], seed: int, what: str, number: int) -> list[int]:
    drawn = numpy_generator(seed, "stream order", what, number).permutation(len(places))
    return [places[at] for at in drawn]


def _gradual(stream: Stream, places: Sequence[int]) -> list[int]:
    """Severities 1-2-3-4-5-4-3-2-1: half of the examples of a severity on the way up, the others on the way down."""
    by_severity: dict[int, list[int]] = {}
    for place in places:
        severity = stream.examples[place].severity
        if severity is None:
            raise InputError(
                f"the example {stream.examples[place].key!r} has no `severity`, which the order gradual needs",
                where=stream.where,
                fix="Give each example one from 1 to 5, or choose another --order",
            )
        by_severity.setdefault(severity, []).append(place)
    found: list[int] = []
    for step, severity in enumerate(_UP_AND_DOWN):
        own = by_severity.get(severity, [])
        half = len(own) if severity == SEVERITIES[-1] else -(-len(own) // 2)
        found += own[:half] if step < len(SEVERITIES) else own[half:]
    return found


def _correlated(stream: Stream, places: Sequence[int], seed: int, what: str, number: int) -> list[int]:
    """Classes shared out over as many slices as there are classes, by a Dirichlet distribution; then slice by slice."""
    classes: dict[str, list[int]] = {}
    for place in places:
        answer = stream.examples[place].answer
        if answer is None:
            raise InputError(
                f"the example {stream.examples[place].key!r} has no answer, which the order correlated needs",
                where=stream.where,
                fix="Choose another --order",
            )
        classes.setdefault(answer, []).append(place)
    generator = numpy_generator(seed, "stream order", what, number)
    slices: list[list[int]] = [[] for _ in classes]
    for name in sorted(classes):
        own = [classes[name][at] for at in generator.permutation(len(classes[name]))]
        shares = generator.dirichlet([CONCENTRATION] * len(slices)).cumsum()
        ends = [round(float(share) * len(own)) for share in shares]
        for at, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            slices[at] += own[start:end]
    return [place for part in slices for place in part]
