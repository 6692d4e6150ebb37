"""What is claimed of learners, asked of the cells: for each claim its source, its arms, and its rule.

The rules were written before the figures. A claim is about both orders of the tasks: it holds if its rule is true in
both. Intervals and verdicts are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.verdict import FAILURE, MARGIN, Contrast, Figure, Rule
from benchmarks.claims.worlds import GENERIC
from benchmarks.learners.arms import ORDERS
from benchmarks.learners.cells import SequenceCell, SequenceCells

SEEDS = 5
#: The verdict of a claim some of whose seeds are missing.
OPEN = "not decided yet"

#: The cells of one order and one seed by arm -> what is compared.
Compare = Callable[[Mapping[str, SequenceCell]], Contrast]


@dataclass(frozen=True)
class OrderedClaim:
    """One claim.

    Attributes:
        name: in the page.
        words: the claim.
        source: where it is made.
        needs: the arms that it is computed from.
        compare: what is compared in them.
        rule: when it holds, by the names of the orders.
        remark: what a reader must know of the figure, perhaps nothing.
    """

    name: str
    words: str
    source: str
    needs: tuple[str, ...]
    compare: Compare
    rule: Rule
    remark: str = ""


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with the seeds of which all cells are there.

    Attributes:
        seeds: these.
        figures: by order.
    """

    claim: OrderedClaim
    seeds: tuple[int, ...]
    figures: Mapping[str, Figure]

    @property
    def verdict(self) -> str:
        """One of the words of the other claims, or that seeds are missing: a rule is about all of them."""
        return self.claim.rule.verdict(self.figures) if len(self.seeds) == SEEDS else OPEN


def ask(cells: SequenceCells) -> list[JudgedClaim]:
    """Every claim that has all its cells for at least two seeds."""
    found = []
    for claim in CLAIMS:
        seeds = [seed for seed in cells.seeds(claim.needs, ORDERS) if seed < SEEDS]
        if len(seeds) > 1:
            figures = {
                order: Figure.of(
                    [claim.compare({arm: cells[arm, order, seed] for arm in claim.needs}) for seed in seeds]
                )
                for order in ORDERS
            }
            found.append(JudgedClaim(claim, tuple(seeds), figures))
    return found


# ---------------------------------------------------------------------- what is compared


def average(first: str, second: str) -> Compare:
    """Two arms on all learned tasks in the end."""
    return lambda cells: Contrast.of(
        *([cells[arm].marks[-1][task] for task in cells[arm].tasks] for arm in (first, second))
    )


def general(first: str, second: str) -> Compare:
    """Two arms on the general task in the end."""
    return lambda cells: Contrast.of(*([cells[arm].marks[-1][GENERIC]] for arm in (first, second)))


def lost(arm: str) -> Compare:
    """An arm on the general task in the end, beside the base."""
    return lambda cells: Contrast.of([cells[arm].marks[-1][GENERIC]], [cells[arm].marks[0][GENERIC]])


def backward(first: str, second: str) -> Compare:
    """Two arms' backward transfer; the seeds alone make the interval."""
    return lambda cells: Contrast(cells[first].backward, cells[second].backward, ())


def nothing_forgotten(arm: str) -> Compare:
    """What an arm answers of each task but the last in the end, beside what it did when it was learned."""

    def compare(cells: Mapping[str, SequenceCell]) -> Contrast:
        cell = cells[arm]
        tasks = list(enumerate(cell.tasks[:-1], 1))
        first: list[np.ndarray] = [cell.marks[-1][task] for _, task in tasks]
        return Contrast.of(first, [cell.marks[stage][task] for stage, task in tasks])

    return compare


# ---------------------------------------------------------------------- rules


def better(what: str) -> Rule:
    """The first arm has more, in both orders."""
    return Rule(
        f"the interval of {what} is above 0 in both orders", lambda figures: all(one.lo > 0 for one in figures.values())
    )


def kept(what: str) -> Rule:
    """Nothing much is lost, in either order."""
    return Rule(
        f"the interval of {what} is above -{MARGIN} in both orders",
        lambda figures: all(one.lo > -MARGIN for one in figures.values()),
        wants_more=False,
    )


def failing(what: str) -> Rule:
    """Much is lost, in both orders."""
    return Rule(
        f"the interval of {what} is below -{FAILURE:.2f} in both orders",
        lambda figures: all(one.hi < -FAILURE for one in figures.values()),
        wants_more=False,
    )


_BWT = "the backward transfer of {} minus that of sequential training"
_ACC = "{} minus {} (all learned tasks in the end)"

CLAIMS = (
    OrderedClaim(
        "forgetting", "Sequential training forgets", "McCloskey and Cohen 1989",
        ("sequential",), nothing_forgotten("sequential"),
        failing("sequential training's earlier tasks in the end minus when they were learned"),
    ),
    OrderedClaim(
        "replay", "A few examples of each task keep the tasks", "Chaudhry et al. 2019",
        ("replay", "sequential"), average("replay", "sequential"),
        better(_ACC.format("replay of 64 examples a task", "sequential training")),
    ),
    OrderedClaim(
        "replay-loses-the-base", "Rehearsing the tasks does not keep what the base could do by itself", "ours",
        ("replay",), lost("replay"),
        failing("replay minus the base (general task)"),
    ),
    OrderedClaim(
        "o_lora", "O-LoRA forgets less than sequential LoRA of the same rank", "Wang et al. 2023",
        ("o_lora", "sequential"), backward("o_lora", "sequential"), better(_BWT.format("O-LoRA")),
    ),
    OrderedClaim(
        "o_lora-each", "Its penalty is why: new factors alone forget more", "Wang et al. 2023 (IncLoRA)",
        ("o_lora", "each"), backward("o_lora", "each"),
        better("the backward transfer of O-LoRA minus that of new factors without the penalty"),
    ),
    OrderedClaim(
        "inf_lora", "InfLoRA forgets less than sequential LoRA of the same rank", "Liang and Li 2024",
        ("inf_lora", "sequential"), backward("inf_lora", "sequential"), better(_BWT.format("InfLoRA")),
    ),
    OrderedClaim(
        "ewc", "EWC forgets less than sequential training", "Kirkpatrick et al. 2017",
        ("ewc", "sequential"), backward("ewc", "sequential"), better(_BWT.format("EWC")),
    ),
    OrderedClaim(
        "gpm", "GPM forgets less than sequential training", "Saha et al. 2021",
        ("gpm", "sequential"), backward("gpm", "sequential"), better(_BWT.format("GPM")),
    ),
    OrderedClaim(
        "lwf", "LwF forgets less than sequential training", "Li and Hoiem 2016",
        ("lwf", "sequential"), backward("lwf", "sequential"), better(_BWT.format("LwF")),
    ),
    OrderedClaim(
        "lwf-base", "LwF keeps more of what the base could do", "after Li and Hoiem 2016",
        ("lwf", "sequential"), general("lwf", "sequential"),
        better("LwF minus sequential training (general task)"),
    ),
    OrderedClaim(
        "equal-bytes", "At the bytes of EWC, replay ends higher", "after Lopez-Paz and Ranzato 2017",
        ("replay, EWC's bytes", "ewc"), average("replay, EWC's bytes", "ewc"),
        better(_ACC.format("replay", "EWC")),
        "texts of strings are short: so many bytes are most of the training examples",
    ),
    OrderedClaim(
        "der_pp", "DER++ ends higher than replay of as many examples", "Buzzega et al. 2020",
        ("der_pp", "replay, few"), average("der_pp", "replay, few"),
        better(_ACC.format("DER++", "replay")),
        "DER++ keeps the logits too, and computes 64 kept examples in every step beside the 32 new ones",
    ),
    OrderedClaim(
        "momentum", "The slow weights end higher than the fast ones", "Stojanovski et al. 2022",
        ("momentum", "sequential"), average("momentum", "sequential"),
        better(_ACC.format("slow weights", "sequential training, whose weights are the fast ones")),
    ),
    OrderedClaim(
        "merging", "Merging experts ends higher than sequential training", "after Marczak et al. 2024",
        ("merging", "sequential"), average("merging", "sequential"),
        better(_ACC.format("TIES of experts", "sequential training")),
    ),
    OrderedClaim(
        "joint", "Replay comes near to learning everything at once", "ours",
        ("replay", "joint"), average("replay", "joint"),
        kept(_ACC.format("replay", "joint training")),
    ),
)  # fmt: skip
