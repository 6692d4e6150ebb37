"""What a stream's domains do to each other: scores on all of them before the first and after each.

Looked at in the first round, where domains come one after another; nothing is learned from a look. Uses the plan of the
batches and measure's transfer and forgetting; `runner` looks, the page shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from genepool.adaptation.orders import PlannedBatch
from genepool.adaptation.stream import Stream
from genepool.measure import continual_accuracy

#: Examples of a domain that are looked at, at most, and domains. Ours: it is to cost less than a round.
LOOKED_AT, MOST_DOMAINS = 32, 20


def domain_ends(stream: Stream, batches: Sequence[PlannedBatch]) -> dict[int, str]:
    """After which batches of the first round a domain is over, by number; empty where they do not follow each other.

    Args:
        stream: the stream.
        batches: of a run.
    """
    last: dict[str, int] = {}
    order: list[str] = []
    for batch in batches:
        if batch.round > 1:
            break
        for at in batch.places:
            domain = stream.examples[at].domain
            if not order or order[-1] != domain:
                order.append(domain)
            last[domain] = batch.number
    # A batch norm cannot look at one example alone.
    # Small domains may end within the same batch: then no look would tell them apart.
    apart = len(set(order)) == len(order) == len(set(last.values()))
    if not 1 < len(order) <= MOST_DOMAINS or not apart or any(len(_labelled(stream, one)) < 2 for one in order):
        return {}
    return {last[domain]: domain for domain in order}


def _labelled(stream: Stream, domain: str) -> list[int]:
    """Places of the examples of a domain whose label counts."""
    return [
        at for at, one in enumerate(stream.examples) if one.domain == domain and one.answer is not None and one.known
    ]


def part_of(stream: Stream, domain: str) -> Stream:
    """Examples of one domain, evenly from all of it."""
    own = _labelled(stream, domain)
    step = -(-len(own) // LOOKED_AT)
    return replace(stream, examples=tuple(stream.examples[at] for at in own[::step]))


def course_of(looks: Mapping[int, Mapping[str, float]]) -> dict[str, Any] | None:
    """What the looks come to, as plain data; None where one is missing, as after a run that was stopped.

    Args:
        looks: mean scores by domain, by how many domains were over, from 0 on; domains in the order of the stream.

    Returns:
        `domains`, `before`, their scores before the first, and `after`, a row of scores after each; `average`,
        `backward_transfer`, `forward_transfer` and `forgetting` of them, as `continual_accuracy` has it.
    """
    domains = list(looks.get(0, {}))
    count = len(domains)
    if count < 2 or sorted(looks) != list(range(count + 1)) or any(list(one) != domains for one in looks.values()):
        return None
    matrix = [[looks[stage][one] for one in domains] for stage in range(1, count + 1)]
    before = [looks[0][one] for one in domains]
    found = continual_accuracy(matrix, before)
    return {
        "domains": domains,
        "before": before,
        "after": matrix,
        "average": found.average,
        "backward_transfer": found.backward_transfer,
        "forward_transfer": found.forward_transfer,
        "forgetting": found.forgetting,
    }
