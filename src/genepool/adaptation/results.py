"""What a run on a stream came to: rounds, domains, the clean set, and the verdict against doing nothing.

Computed from the record alone, so that a page can be drawn again at any time. Uses measure; `runner` and the report
read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genepool.adaptation.domain_course import course_of
from genepool.adaptation.stream_record import IssuedRow, StreamRecord
from genepool.checked import is_whole
from genepool.measure import Comparison, compare, paired_bootstrap
from genepool.measure.intervals import Difference
from genepool.tasks.pairs import Pairs

#: What the models, the clean set and examples without a domain are called in a comparison.
FROZEN, ADAPTED, CLEAN, WHOLE = "frozen", "adapted", "clean", "stream"
BETTER, SAME, WORSE = "better", "no difference", "worse than doing nothing"


def verdict_of(difference: Difference) -> str:
    """What the interval of adapted less frozen says."""
    return BETTER if difference.lo > 0 else WORSE if difference.hi < 0 else SAME


def results_of(record: StreamRecord, seed: int) -> dict[str, Any]:
    """Scores of the last round and of all, the verdict, resets and looks at the clean set, as plain data.

    Args:
        record: of the run.
        seed: of the bootstrap of the intervals.

    Returns:
        `frozen` and `adapted`, mean scores of the last round; `difference`, with `mean`, `lo` and `hi`; `verdict`; all
        None where there are no labels. `history`, the same by round. `resets`, their number, and `events`, what
        happened when. `clean_before` and `clean_after`, None without a clean set, and `clean`, every look at it.
        `unknown`: AUROC of the entropy, frozen and adapted; None where there are no examples of unknown classes.
        `error`: of a series the mean squared errors `frozen`, `adapted` and `late`, and `block`, how many neighbouring
        windows count as one example; None for other streams.
        `course`: what the domains do to each other (`domain_course`); None where they do not follow one another.
    """
    block = block_of(record)
    rows, signs = pooled(record.issued(), block, by_domain=False), record.signs()
    last = max((row.round for row in rows), default=0)
    history = [
        {"round": number, **_round([row for row in rows if row.round == number], seed)} for number in range(1, last + 1)
    ]
    final = history[-1] if history else _round([], seed)
    looks = [
        {"batches": batch, "frozen": _mean([two for _, two in pairs]), "adapted": _mean([one for one, _ in pairs])}
        for batch, pairs in record.clean().items()
    ]
    events = [
        {"batch": one.number, "round": one.round, "alarm": one.alarm, "reset": one.reset}
        for one in signs
        if one.alarm or one.reset
    ]
    told = {key: final[key] for key in ("frozen", "adapted", "difference", "verdict")}
    unknown = _unknown([row for row in rows if row.round == last])
    return {
        **told,
        "resets": sum(bool(one.reset) for one in signs),
        "clean_before": looks[0]["adapted"] if looks else None,
        "clean_after": looks[-1]["adapted"] if looks else None,
        "kept": _mean([one.kept for one in signs]) if signs else None,
        "history": history,
        "events": events,
        "clean": looks,
        "unknown": unknown,
        "error": _errors(record, block),
        "course": course_of(record.domains()),
    }


def comparison_of(record: StreamRecord, seed: int) -> Comparison | None:
    """Frozen against adapted over the last round, domain by domain, and the last look at the clean set.

    Args:
        record: of the run.
        seed: of the bootstrap.

    Returns:
        The comparison; None where no example has a label.
    """
    block = block_of(record)
    rows = pooled(record.issued(), block)
    last = max((row.round for row in rows), default=0)
    domains: dict[str, list[IssuedRow]] = {}
    for row in rows:
        if row.round == last and row.score is not None:
            domains.setdefault(row.domain or WHOLE, []).append(row)
    pairs = [
        Pairs(name, _scores(own, "frozen_score"), _scores(own, "score"), np.array([r.issued != r.frozen for r in own]))
        for name, own in domains.items()
    ]
    if not pairs:
        return None
    if looks := record.clean():
        last_look = np.array(looks[max(looks)], dtype=np.float64)
        ours, theirs = np.array([part.mean(0) for part in _blocks(last_look, block)]).T
        # A domain of the stream may have this name.
        name = CLEAN if CLEAN not in domains else f"{CLEAN} set"
        pairs.append(Pairs(name, theirs, ours))
    return compare(FROZEN, ADAPTED, pairs, seed=seed)


def _round(rows: Sequence[IssuedRow], seed: int) -> dict[str, Any]:
    """Scores of the examples with labels, and what they say."""
    labelled = [row for row in rows if row.score is not None]
    if not labelled:
        return {"n": 0, "frozen": None, "adapted": None, "difference": None, "verdict": None}
    frozen, adapted = _scores(labelled, "frozen_score"), _scores(labelled, "score")
    difference = paired_bootstrap(adapted, frozen, seed=seed)
    return {
        "n": len(labelled),
        "frozen": float(frozen.mean()),
        "adapted": float(adapted.mean()),
        "difference": difference.interval._asdict() | {"mean": difference.difference},
        "verdict": verdict_of(difference),
    }


def _scores(rows: Sequence[IssuedRow], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _unknown(rows: Sequence[IssuedRow]) -> dict[str, Any] | None:
    """How well the entropy tells examples of unknown classes from others; None where there are not both."""
    known = [row for row in rows if row.known]
    others = [row for row in rows if not row.known]
    if not known or not others:
        return None
    ours = [[row.entropy if row.entropy is not None else 0.0 for row in part] for part in (others, known)]
    theirs = [[row.frozen_entropy for row in part] for part in (others, known)]
    return {"n": len(others), "frozen": auroc(*theirs), "adapted": auroc(*ours)}


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """The probability that a positive has a larger value than a negative one; ties count a half.

    Args:
        positives, negatives: one value or more each.
    """
    values = np.concatenate([positives, negatives])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(positives)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negatives)))


def block_of(record: StreamRecord) -> int:
    """How many neighbouring examples of a run count as one; 1 unless its stream is a series."""
    block = record.get("settings", {}).get("block", 1)
    return block if is_whole(block, 1) else 1


def pooled(rows: Sequence[IssuedRow], block: int, *, by_domain: bool = True) -> list[IssuedRow]:
    """Rows whose scores are means over blocks of neighbours.

    Windows of a series that overlap share most of what is forecast: an interval that took each for an example of its
    own would be far too narrow.

    Args:
        rows: as they were issued.
        block: examples of a block, at least; the rows themselves for 1.
        by_domain: a block holds examples of one domain, whether or not others stand between.
    """
    if block == 1:
        return list(rows)
    found = []
    parts: dict[tuple[int, str], list[IssuedRow]] = {}
    for row in rows:
        parts.setdefault((row.round, row.domain if by_domain else ""), []).append(row)
    for part in parts.values():
        for own in _blocks(part, block):
            other = next((row for row in own if row.issued != row.frozen), own[0])
            scores = [row.score for row in own if row.score is not None]
            frozen = [row.frozen_score for row in own if row.frozen_score is not None]
            found.append(
                replace(
                    other,
                    score=_mean(scores) if scores else None,
                    frozen_score=_mean(frozen) if frozen else None,
                )
            )
    return found


def _blocks(rows: Any, block: int) -> list[Any]:
    """Neighbours together; what is left at the end goes into the block before it."""
    cuts = list(range(0, len(rows), block))
    if len(cuts) > 1 and len(rows) - cuts[-1] < block:
        cuts.pop()
    return [rows[start:stop] for start, stop in itertools.pairwise([*cuts, len(rows)])]


def _errors(record: StreamRecord, block: int) -> dict[str, Any] | None:
    """Mean squared errors along a series; None for other streams. A forecast that is not a number has no error."""
    rows = record.errors()
    if not rows:
        return None
    ours, frozen, late = ([row[at] for row in rows if row[at] is not None] for at in range(3))
    return {
        "frozen": _mean([float(one) for one in frozen if one is not None]),
        "adapted": _mean([float(one) for one in ours if one is not None]) if len(ours) == len(rows) else None,
        "late": _mean([float(one) for one in late if one is not None]) if len(late) == len(rows) else None,
        "block": block,
    }
