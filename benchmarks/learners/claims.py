"""What is claimed of learners, asked of the cells: for each claim its source, its arms, and its rule.

The rules were written before the figures. A claim is about both orders of the tasks: it holds if its rule is true in
both. Intervals and verdicts are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.judged import JudgedClaim
from benchmarks.claims.verdict import FAILURE, MARGIN, Contrast, Figure, Rule
from benchmarks.claims.worlds import GENERIC
from benchmarks.learners.arms import ARMS, TRICKS
from benchmarks.learners.cells import SequenceCell, SequenceCells
from benchmarks.learners.worlds import LearningWorld

SEEDS = 5

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


def orders_of(claim: OrderedClaim) -> tuple[str, ...]:
    """Both orders of the tasks that a claim is about."""
    return tuple(world_of(claim).orders)


def world_of(claim: OrderedClaim) -> LearningWorld:
    """Where the arms of a claim are asked."""
    (world,) = {arm.world.name: arm.world for arm in ARMS if arm.name in claim.needs}.values()
    return world


def ask(cells: SequenceCells) -> list[JudgedClaim[OrderedClaim]]:
    """Every claim that has all its cells for at least two seeds."""
    found = []
    for claim in CLAIMS:
        orders = orders_of(claim)
        seeds = [seed for seed in cells.seeds(claim.needs, orders) if seed < SEEDS]
        if len(seeds) > 1:
            figures = {
                order: Figure.of(
                    [claim.compare({arm: cells[arm, order, seed] for arm in claim.needs}) for seed in seeds],
                    same_examples=world_of(claim).same_examples,
                )
                for order in orders
            }
            found.append(JudgedClaim(claim, tuple(seeds), figures, SEEDS))
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


def right_after(first: str, second: str) -> Compare:
    """Two arms on every task right after it was learned."""

    def marks(cell: SequenceCell) -> list[np.ndarray]:
        return [cell.marks[stage][task] for stage, task in enumerate(cell.tasks, 1)]

    return lambda cells: Contrast.of(marks(cells[first]), marks(cells[second]))


def balanced(first: str, second: str) -> Compare:
    """Two arms' harmonic mean of the first task and the mean of the later ones; the seeds alone make the interval."""

    def score(cell: SequenceCell) -> float:
        base, *new = [cell.score(-1, task) for task in cell.tasks]
        mean = float(np.mean(new))
        return 2 * base * mean / (base + mean) if base + mean else 0.0

    return lambda cells: Contrast(score(cells[first]), score(cells[second]), ())


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
        "slm", "SLM, which is not told the task, ends higher than sequential LoRA of the same rank",
        "Peng et al. 2024",
        ("slm", "sequential"), average("slm", "sequential"),
        better(_ACC.format("SLM", "sequential training")),
    ),
    OrderedClaim(
        "slm-nearest", "It ends as high as one adapter for each task, chosen by the nearest mean of a task's prompts",
        "after Peng et al. 2024",
        ("slm", "slm, one"), average("slm", "slm, one"),
        kept(_ACC.format("SLM", "routing by the nearest mean")),
    ),
    OrderedClaim(
        "joint", "Replay comes near to learning everything at once", "ours",
        ("replay", "joint"), average("replay", "joint"),
        kept(_ACC.format("replay", "joint training")),
    ),
    OrderedClaim(
        "trgp", "TRGP ends higher than GPM", "Lin et al. 2022",
        ("trgp", "gpm"), average("trgp", "gpm"), better(_ACC.format("TRGP", "GPM")),
        "TRGP is told the task",
    ),
    OrderedClaim(
        "cuber", "CUBER transfers more to earlier tasks than TRGP", "Lin et al. 2022 (CUBER)",
        ("cuber", "trgp"), backward("cuber", "trgp"),
        better("the backward transfer of CUBER minus that of TRGP"),
    ),
    OrderedClaim(
        "cuber-better", "With CUBER earlier tasks become better", "Lin et al. 2022 (CUBER)",
        ("cuber",), nothing_forgotten("cuber"),
        better("CUBER's earlier tasks in the end minus when they were learned"),
    ),
    OrderedClaim(
        "nearest", "The nearest earlier model is as good a start as the one of the task before",
        "Bornschein et al. 2022",
        ("experts, nearest", "experts, last"), right_after("experts, nearest", "experts, last"),
        kept("the nearest start minus the last one (each task right after it was learned)"),
        "equally many steps; what finding the nearest takes is little beside them",
    ),
    OrderedClaim(
        "prd", "PRD ends higher than LwF", "Asadi et al. 2023",
        ("digits: prd", "digits: lwf"), average("digits: prd", "digits: lwf"), better(_ACC.format("PRD", "LwF")),
    ),
    OrderedClaim(
        "prd-replay", "PRD, which keeps no example, ends as high as replay of 8 images a task",
        "after Asadi et al. 2023",
        ("digits: prd", "digits: replay 8"), average("digits: prd", "digits: replay 8"),
        kept(_ACC.format("PRD", "replay of 8 images a task")),
    ),
    *(
        OrderedClaim(
            f"few-{name}", f"Of few images, a trick helps by itself: {words}", "Roy et al. 2024",
            (f"few: {name}", "few: frozen"), balanced(f"few: {name}", "few: frozen"),
            better(f"the harmonic mean of the first task and the later ones, with the trick ({name}) minus without,"),
            "five images are learned at the rate of the first task: the last digit is known, and the others are not"
            if name == "subnet" else "",
        )
        for name, (words, _) in TRICKS.items()
    ),
)  # fmt: skip
