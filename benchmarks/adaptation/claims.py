"""What is claimed of stream adapters, asked of the cells: for each claim its source, its arms, and its rule.

The rules were written before the figures. Intervals and verdicts are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.adaptation.arms import BEDS, FIXED_RATES, KEPT, SEEDS, SHORT
from benchmarks.adaptation.cells import StreamCells
from benchmarks.adaptation.trials.trial import TrialClaim
from benchmarks.claims.verdict import MARGIN, Contrast, Figure, Rule

#: The verdict of a claim some of whose seeds are missing.
OPEN = "not decided yet"
#: Accuracy, in points of 1, that augmentations may cost the source where they are asked about.
STANDABLE = 0.02
#: How near to the frozen model the label shift adapter must stay where classes are balanced.
POINT = 0.01
FIRST, LAST = KEPT[0], KEPT[-1]

#: All cells and a seed -> what is compared.
Compare = Callable[[StreamCells, int], Contrast]


@dataclass(frozen=True)
class StreamClaim:
    """One claim.

    Attributes:
        name: in the page.
        words: the claim.
        source: where it is made.
        needs: the arms and their beds that it is computed from.
        figures: what is compared, by name; the first is the main figure.
        rule: when it holds, by the names of the figures.
        remark: what a reader must know of the figure, perhaps nothing.
        shared: figures whose examples are the same for every seed, whatever the bed.
    """

    name: str
    words: str
    source: str
    needs: tuple[tuple[str, str], ...]
    figures: Mapping[str, Compare]
    rule: Rule
    remark: str = ""
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgedStreamClaim:
    """A claim with the seeds of which all cells are there.

    Attributes:
        claim: of the streams, or of a trial.
        seeds: these.
        figures: by name.
        places: digits of the figures behind the point.
    """

    claim: StreamClaim | TrialClaim
    seeds: tuple[int, ...]
    figures: Mapping[str, Figure]
    places: int = 3

    @property
    def verdict(self) -> str:
        """One of the words of the other claims, or that seeds are missing: a rule is about all of them."""
        return self.claim.rule.verdict(self.figures) if len(self.seeds) == SEEDS else OPEN


def ask(cells: StreamCells) -> list[JudgedStreamClaim]:
    """Every claim that has all its cells for at least two seeds."""
    found = []
    for claim in CLAIMS:
        seeds = [seed for seed in cells.seeds(claim.needs) if seed < SEEDS]
        if len(seeds) > 1:
            same = any(BEDS[bed].same_examples for _, bed in claim.needs)
            figures = {
                name: Figure.of([compare(cells, seed) for seed in seeds], same_examples=same or name in claim.shared)
                for name, compare in claim.figures.items()
            }
            found.append(JudgedStreamClaim(claim, tuple(seeds), figures))
    return found


# ---------------------------------------------------------------------- what is compared


def beside_frozen(arm: str, bed: str = "mixed", number: int = LAST, domain: str = "") -> Compare:
    """An arm in a round less the frozen model; in one domain where it is named."""

    def compare(cells: StreamCells, seed: int) -> Contrast:
        cell = cells[arm, bed, seed]
        return Contrast.of(*([cell.part(marks, domain)] for marks in (cell.rounds[number], cell.frozen)))

    return compare


def beside(first: str, second: str, bed: str = "mixed", number: int = LAST, domain: str = "") -> Compare:
    """Two arms in a round; in one domain where it is named."""

    def compare(cells: StreamCells, seed: int) -> Contrast:
        both = [cells[arm, bed, seed] for arm in (first, second)]
        return Contrast.of(*([cell.part(cell.rounds[number], domain)] for cell in both))

    return compare


def since_first(arm: str, bed: str = "mixed") -> Compare:
    """An arm in the last round less the first."""

    def compare(cells: StreamCells, seed: int) -> Contrast:
        cell = cells[arm, bed, seed]
        return Contrast.of(*([cell.rounds[number]] for number in (LAST, FIRST)))

    return compare


def clean(first: str, second: str, bed: str = "mixed") -> Compare:
    """Two arms on the clean examples after the last round."""
    return lambda cells, seed: Contrast.of(*([cells[arm, bed, seed].clean[1]] for arm in (first, second)))


def told_apart(first: str, second: str, bed: str) -> Compare:
    """AUROC of two arms' entropy in the last round; the seeds alone make the interval."""

    def compare(cells: StreamCells, seed: int) -> Contrast:
        sides = [cells[arm, bed, seed].unknown for arm in (first, second)]
        assert sides[0] is not None
        assert sides[1] is not None
        return Contrast(sides[0][1], sides[1][1], ())

    return compare


def cost(arm: str, bed: str = "mixed") -> Compare:
    """What augmentations cost the source; the seeds alone make the interval."""
    return lambda cells, seed: Contrast(cells[arm, bed, seed].cost or 0.0, 0.0, ())


def all_rounds(first: str, second: str | Callable[[StreamCells], str], bed: str) -> Compare:
    """Two arms over all rounds."""

    def compare(cells: StreamCells, seed: int) -> Contrast:
        names = [first, second if isinstance(second, str) else second(cells)]
        return Contrast.of(*([np.concatenate(list(cells[name, bed, seed].rounds.values()))] for name in names))

    return compare


def best_fixed(cells: StreamCells) -> str:
    """The fixed rate that has most over the stream, as a mean over the seeds that are there: known in hindsight."""
    names = [f"fixed {rate:g}" for rate in FIXED_RATES]
    seeds = [seed for seed in cells.seeds([(name, "swaps") for name in names]) if seed < SEEDS]

    def mean(name: str) -> float:
        return float(np.mean([np.mean(list(cells[name, "swaps", seed].rounds.values())) for seed in seeds]))

    return max(names, key=mean)


# ---------------------------------------------------------------------- rules


def above(what: Mapping[str, str], margin: float = 0.0) -> Rule:
    """The interval of each of some figures is above minus a margin.

    Args:
        what: name of a figure -> its words.
        margin: of all of them.
    """
    limit = f"-{margin:g}" if margin else "0"
    words = "; ".join(what.values())
    one, all_of = f"the interval of {words} is above {limit}", f"each of these intervals is above {limit}: {words}"
    return Rule(
        one if len(what) == 1 else all_of,
        lambda figures: all(figures[name].lo > -margin for name in what),
        wants_more=not margin,
    )


def below(what: str) -> Rule:
    """The interval of the main figure is below 0."""
    return Rule(f"the interval of {what} is below 0", lambda figures: figures["main"].hi < 0, wants_more=False)


def _both_signs() -> Rule:
    return Rule(
        "the interval of LAME minus the frozen model is above 0 where labels come in runs, and below 0 where they are "
        "mixed",
        lambda figures: figures["main"].lo > 0 and figures["mixed"].hi < 0,
    )


def _standable(what: str) -> Rule:
    def unasked(figures: Mapping[str, Figure]) -> str | None:
        lost = figures["cost"].first
        return f"augmentations cost the source {100 * lost:.1f} points" if lost > STANDABLE else None

    return Rule(
        f"the interval of {what} is above 0. It cannot be asked if augmentations cost the source more than "
        f"{100 * STANDABLE:.0f} points",
        lambda figures: figures["main"].lo > 0,
        unasked,
    )


def _guarded(what: str, guard: str) -> Rule:
    return Rule(
        f"the interval of {what} is above 0, and the interval of {guard} is above -{MARGIN}",
        lambda figures: figures["main"].lo > 0 and figures["guard"].lo > -MARGIN,
    )


def _near() -> Rule:
    return Rule(
        f"the interval of the label shift adapter minus the frozen model is between -{POINT} and {POINT}",
        lambda figures: figures["main"].lo > -POINT and figures["main"].hi < POINT,
        wants_more=False,
    )


_TENT = "Wang et al. 2021 (TENT)"
_ROUND = f"in round {LAST}"


def _beats_diversity(name: str, words: str, source: str) -> StreamClaim:
    return StreamClaim(
        f"{name}-diversity", f"{words} beats the diversity term, the cheapest cure", source,
        ((name, "mixed"), ("diversity", "mixed")), {"main": beside(name, "diversity")},
        above({"main": f"{words} minus the diversity term {_ROUND}"}),
    )  # fmt: skip


CLAIMS = (
    StreamClaim(
        "tent-gains", "TENT gains in its first round", _TENT, (("tent", "mixed"),),
        {"main": beside_frozen("tent", number=FIRST)}, above({"main": "TENT minus the frozen model in round 1"}),
    ),
    StreamClaim(
        "tent-collapses", f"TENT is worse than doing nothing {_ROUND}", "its users", (("tent", "mixed"),),
        {"main": beside_frozen("tent")}, below(f"TENT minus the frozen model {_ROUND}"),
    ),
    StreamClaim(
        "eata-lasts", "EATA keeps over fifteen rounds what it has after one", "Niu et al. 2022 (EATA)",
        (("eata", "mixed"),), {"main": since_first("eata")},
        above({"main": f"EATA {_ROUND} minus in round 1"}, MARGIN),
    ),
    StreamClaim(
        "eata-tent", "EATA beats TENT on a long stream", "Niu et al. 2022 (EATA)",
        (("eata", "mixed"), ("tent", "mixed")), {"main": beside("eata", "tent")},
        above({"main": f"EATA minus TENT {_ROUND}"}),
    ),
    _beats_diversity("eata", "EATA", "Niu et al. 2022 (EATA)"),
    _beats_diversity("sar", "SAR", "Niu et al. 2023 (SAR)"),
    _beats_diversity("roid", "ROID", "Marsden et al. 2024 (ROID)"),
    _beats_diversity("wisdom", "Wisdom of crowds", "Lee et al. 2023"),
    StreamClaim(
        "lame", "LAME gains where labels come in runs, and loses where they do not", "Boudiaf et al. 2022 (LAME)",
        (("lame", "correlated"), ("lame", "mixed")),
        {"main": beside_frozen("lame", "correlated", SHORT), "mixed": beside_frozen("lame")}, _both_signs(),
    ),
    StreamClaim(
        "wisdom-open", "Where some classes are unknown, wisdom of crowds is better than TENT at known ones and tells "
        "them from others better", "Lee et al. 2023", (("wisdom", "open"), ("tent", "open")),
        {"main": beside("wisdom", "tent", "open"), "auroc": told_apart("wisdom", "tent", "open")},
        above({"main": f"wisdom of crowds minus TENT {_ROUND} (accuracy on known classes)",
               "auroc": "the same (AUROC of the entropy)"}),
    ),
    StreamClaim(
        "cotta", "CoTTA beats TENT on a long stream, where the model stands the augmentations",
        "Wang et al. 2022 (CoTTA)", (("cotta", "mixed"), ("tent", "mixed")),
        {"main": beside("cotta", "tent"), "cost": cost("cotta")}, _standable(f"CoTTA minus TENT {_ROUND}"),
    ),
    StreamClaim(
        "rmt-source", "Source examples keep more of what RMT's model knew", "Döbler et al. 2023 (RMT)",
        (("rmt", "mixed"), ("rmt, no source", "mixed")),
        {"main": clean("rmt", "rmt, no source"), "stream": beside("rmt", "rmt, no source")},
        above({"main": "RMT with source examples minus without, on the clean examples in the end"}), shared=("main",),
    ),
    StreamClaim(
        "psmt-cotta", "PSMT forgets less than CoTTA at equal accuracy on the stream", "Tian and Lyu 2024 (PSMT)",
        (("psmt", "mixed"), ("cotta", "mixed")),
        {"main": clean("psmt", "cotta"), "guard": beside("psmt", "cotta")},
        _guarded("PSMT minus CoTTA on the clean examples in the end", f"PSMT minus CoTTA {_ROUND}"), shared=("main",),
    ),
    StreamClaim(
        "label-shift", "Where classes are long-tailed, either way round, the label shift adapter beats the frozen "
        "model and TENT", "Park et al. 2023", (("label_shift", "label_shift"), ("tent", "label_shift")),
        {
            "main": beside_frozen("label_shift", "label_shift", domain="low"),
            "high": beside_frozen("label_shift", "label_shift", domain="high"),
            "tent low": beside("label_shift", "tent", "label_shift", domain="low"),
            "tent high": beside("label_shift", "tent", "label_shift", domain="high"),
        },
        above({"main": f"the label shift adapter minus the frozen model {_ROUND}, low digits common",
               "high": "the same, high digits common", "tent low": "the same minus TENT, low digits common",
               "tent high": "the same minus TENT, high digits common"}),
    ),
    StreamClaim(
        "label-shift-balanced", "Where classes are balanced, the label shift adapter changes nothing much",
        "after Park et al. 2023", (("label_shift", "mixed"),), {"main": beside_frozen("label_shift")}, _near(),
    ),
    StreamClaim(
        "homeostatic", "Where labels change what they mean, a rate that follows a need beats the best fixed rate, and "
        "the same rates in another order", "Man, Damasio and Neven 2022",
        (*((f"fixed {rate:g}", "swaps") for rate in FIXED_RATES), ("need", "swaps"), ("need, shuffled", "swaps")),
        {"main": all_rounds("need", best_fixed, "swaps"), "shuffled": all_rounds("need", "need, shuffled", "swaps")},
        above({"main": "the homeostatic rate minus the best fixed rate in hindsight (all rounds)",
               "shuffled": "the homeostatic rate minus the same rates shuffled in time (all rounds)"}),
        "the fixed rates are tuned in hindsight, the other is not",
    ),
    StreamClaim(
        "tt-si", "A language model that teaches itself about uncertain items answers more than one that does not, than "
        "one that learns of as many random items, and than one that learns of certain ones", "Acikgoz et al. 2025",
        tuple((f"tt_si, {select}", "half_known") for select in ("uncertain", "random", "certain")),
        {
            "main": beside_frozen("tt_si, uncertain", "half_known", 1),
            "random": beside("tt_si, uncertain", "tt_si, random", "half_known", 1),
            "certain": beside("tt_si, uncertain", "tt_si, certain", "half_known", 1),
        },
        above({"main": "lessons about uncertain items minus none",
               "random": "lessons about uncertain items minus about as many random ones",
               "certain": "lessons about uncertain items minus about as many certain ones"}),
        "61% of the items are uncertain, so of as many certain ones at least 36% are uncertain too",
    ),
)  # fmt: skip
