"""What the papers say of composition, asked of the cells: for each claim its source, its arms, and its rule.

The rules were written before the figures. Verdicts and intervals are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.verdict import Contrast, Figure, Rule, better, kept
from benchmarks.claims.worlds import GENERIC
from benchmarks.composition.arms import CONTROL, ONE
from benchmarks.composition.bed import DIGITS, PAIR_TASKS, PAIRS, SENTENCES, TEXT, UNTAGGED
from benchmarks.composition.cells import Cells, Key
from benchmarks.composition.curves import SEEDS

#: An arm and the number of examples of each task that it was given.
Named = tuple[str, int]
#: The cells of one testbed of one seed, by arm -> what is compared.
Compare = Callable[[Mapping[Named, Mapping[str, np.ndarray]]], dict[str, Contrast]]
_BOTH = DIGITS + TEXT
#: The verdict of a claim some of whose seeds are missing.
OPEN = "not decided yet"
# The part of what specialists gain that has to be kept, and what of the control may be lost.
_KEPT, _HELD = 0.9, 0.03


@dataclass(frozen=True)
class CompositionClaim:
    """One claim.

    Attributes:
        name: in the page.
        words: the claim.
        source: where it is made.
        beds: where it is asked.
        needs: the cells that it is computed from.
        compare: what is compared in them.
        rule: when it holds.
        remark: what a reader must know of the figure, perhaps nothing.
    """

    name: str
    words: str
    source: str
    beds: tuple[str, ...]
    needs: tuple[Named, ...]
    compare: Compare
    rule: Rule
    remark: str = ""


@dataclass(frozen=True)
class Asked:
    """A claim on a testbed, with the seeds of which all cells are there.

    Attributes:
        seeds: these.
        figures: by name; "main" is what the rule is about.
    """

    claim: CompositionClaim
    bed: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Figure]

    @property
    def verdict(self) -> str:
        """One of the words of the other claims, or that seeds are missing: a rule is about all of them."""
        return self.claim.rule.verdict(self.figures) if len(self.seeds) == SEEDS else OPEN


def ask(cells: Cells) -> list[Asked]:
    """Every claim on those of its testbeds that have all its cells for at least two seeds."""
    found = []
    for claim in CLAIMS:
        for bed in claim.beds:
            seeds = common_seeds(cells, bed, claim.needs)
            if len(seeds) > 1:
                found.append(Asked(claim, bed, tuple(seeds), _figures(cells, claim, bed, seeds)))
    return found


def common_seeds(cells: Cells, bed: str, needs: Sequence[Named]) -> list[int]:
    """The seeds with which all of some cells were measured."""
    return sorted(set.intersection(*(set(cells.seeds(bed, arm, size)) for arm, size in needs)))


def missing_cells(cells: Cells, bed: str, needs: Sequence[Named]) -> dict[Named, list[int]]:
    """The arms that some seeds of a testbed were not measured with, and these seeds."""
    found = {(arm, size): sorted(set(range(SEEDS)) - set(cells.seeds(bed, arm, size))) for arm, size in needs}
    return {one: seeds for one, seeds in found.items() if seeds}


def _figures(cells: Cells, claim: CompositionClaim, bed: str, seeds: Sequence[int]) -> dict[str, Figure]:
    compared = [
        claim.compare({(arm, size): cells[Key(bed, seed, arm, size)].scores for arm, size in claim.needs})
        for seed in seeds
    ]
    return {name: Figure.of([one[name] for one in compared]) for name in compared[0]}


def against(first: Named, second: Named) -> tuple[tuple[Named, ...], Compare]:
    """Two arms on all tasks that skills were trained for; on those of two skills in turn where there are any."""

    def compare(scores: Mapping[Named, Mapping[str, np.ndarray]]) -> dict[str, Contrast]:
        pairs = [task for task in scores[first] if task in PAIR_TASKS]
        tasks = pairs or [task for task in scores[first] if task != GENERIC]
        return {"main": Contrast.of(*([scores[arm][task] for task in tasks] for arm in (first, second)))}

    return (first, second), compare


def gain_kept(arm: Named) -> tuple[tuple[Named, ...], Compare]:
    """The part of the gain from the base to the specialists that an arm has, as a mean over the skills' tasks."""
    base, ceiling = ("base", 0), ("specialists, task known", 0)

    def compare(scores: Mapping[Named, Mapping[str, np.ndarray]]) -> dict[str, Contrast]:
        tasks = [task for task in scores[base] if task != GENERIC]
        low, found, high = (
            float(np.mean([scores[one][task].mean() for task in tasks])) for one in (base, arm, ceiling)
        )
        return {"main": Contrast((found - low) / (high - low), 0.0, ())}

    return (base, arm, ceiling), compare


def unlearning() -> tuple[tuple[Named, ...], Compare]:
    """What is lost of the skills that are unlearned ("main"), and of the control ("guard")."""
    base, arm = ("base", 0), ("unlearned", ONE)

    def compare(scores: Mapping[Named, Mapping[str, np.ndarray]]) -> dict[str, Contrast]:
        controls = [task for task in scores[arm] if task.startswith(CONTROL)]
        targets = [task for task in scores[arm] if task not in controls]
        return {
            "main": Contrast.of([scores[arm][one] for one in targets], [scores[base][one] for one in targets]),
            "guard": Contrast.of([scores[arm][one] for one in controls], [scores[base][GENERIC]] * len(controls)),
        }

    return (base, arm), compare


def worse(what: str) -> Rule:
    """The first arm is worse: the whole interval is below 0."""
    words = f"the interval of {what} is below 0"
    return Rule(words, lambda figures: figures["main"].hi < 0, wants_more=False)


def _share() -> Rule:
    words = f"the interval of (score - base) / (specialists - base) is above {_KEPT}, the task known"
    return Rule(words, lambda figures: figures["main"].lo > _KEPT, wants_more=False)


def _unlearned() -> Rule:
    words = (
        "the interval of the unlearned skill's task after minus before is below 0, and the interval of the same for "
        f"the general task is above -{_HELD}"
    )
    return Rule(
        words,
        lambda figures: figures["main"].hi < 0 and figures["guard"].lo > -_HELD,
        wants_more=False,
    )


def _of(arm: str, size: int = ONE) -> Named:
    return (arm, size)


_MEAN = "(mean over the skills' tasks)"
_ADAMERGING, _ATLAS = "AdaMerging, Yang et al. 2024", "aTLAS, Zhang et al. 2024"

CLAIMS = (
    CompositionClaim(
        "learned-unlabelled", "Layer-wise AdaMerging, with entropy and its authors' steps, beats tuned task arithmetic",
        f"{_ADAMERGING} (80.1 against 69.1 on 8 vision tasks)", DIGITS,
        *against(_of("entropy as its authors"), ("tuned task arithmetic", 0)),
        better(f"AdaMerging by entropy (64 inputs a task, 500 steps at 1e-3) minus task arithmetic {_MEAN}"),
        "the factor of task arithmetic is chosen by labels; the authors adapt on all test inputs",
    ),
    CompositionClaim(
        "collapse", "Task-wise AdaMerging by entropy gets worse when it goes on", "ours", DIGITS,
        *against(_of("entropy by task, 500 steps"), _of("entropy by task, 100 steps")),
        worse(f"step 500 minus step 100 {_MEAN}"),
    ),
    CompositionClaim(
        "match-beats-entropy", "To match each skill on its own task beats minimal entropy", "ours",
        (*_BOTH, SENTENCES),
        *against(_of("adamerging, match"), _of("adamerging, entropy")),
        better(f"match minus entropy, 64 inputs a task and otherwise alike {_MEAN}"),
        "both stop by the held-out distance to the skills, which is what match minimises",
    ),
    CompositionClaim(
        "match-beats-authors", "To match each skill beats AdaMerging with its authors' entropy and steps", "ours",
        DIGITS,
        *against(_of("adamerging, match"), _of("entropy as its authors")),
        better(f"match (at most 100 steps at 1e-2) minus entropy (500 steps at 1e-3), 64 inputs a task {_MEAN}"),
    ),
    CompositionClaim(
        "plus-plus", "AdaMerging++ beats AdaMerging", f"{_ADAMERGING} (81.1 against 80.1, layer-wise)", _BOTH,
        *against(_of("adamerging_pp, match"), _of("adamerging, match")),
        better(f"AdaMerging++ minus AdaMerging, both by matching with 64 inputs a task {_MEAN}"),
    ),
    CompositionClaim(
        "blockwise", "A coefficient for each tensor beats one for each skill, from few labels", _ATLAS, _BOTH,
        *against(_of("likelihood, by tensor"), _of("likelihood, by task")),
        better(f"by tensor minus by task, 64 labels a task {_MEAN}"),
    ),
    CompositionClaim(
        "negation", "A skill is unlearned by its own vector, and a control task holds the rest", _ATLAS, _BOTH,
        *unlearning(), _unlearned(),
    ),
    CompositionClaim(
        "lorahub", "LoraHub beats the best single adapter on a mixture that none was trained for",
        "LoraHub, Huang et al. 2024", TEXT,
        *against(_of("lorahub", 16), ("best single adapter", 0)),
        better("LoraHub minus the best adapter on equal parts of all four skills' tasks, 16 labels of each"),
        "the prompts name their skills",
    ),
    CompositionClaim(
        "lorahub-products", "Sums of products beat sums of factors", "ours, against LoraHub's code", TEXT,
        *against(_of("lorahub", 16), _of("lorahub, factors added apart", 16)),
        better("products minus factors added apart, in the same search, on the same mixture"),
    ),
    CompositionClaim(
        "scalearn", "ScaLearn beats the mean of the adapters", "ScaLearn, Frohmann et al. 2024", TEXT,
        *against(_of("scalearn"), ("mean of adapters", 0)),
        better(f"ScaLearn (64 labels a task) minus the mean of the adapters {_MEAN}"),
    ),
    CompositionClaim(
        "twin", "Twin-Merging at a tenth of the rank keeps 90% of what specialists gain",
        "Twin-Merging, Lu et al. 2024", _BOTH, *gain_kept(_of("twin_merging, task known")), _share(),
    ),
    CompositionClaim(
        "emr", "EMR-Merging keeps 90% of what specialists gain", "EMR-Merging, Huang et al. 2024", _BOTH,
        *gain_kept(("emr, task known", 0)), _share(),
    ),
    CompositionClaim(
        "router-worth", "Twin-Merging beats whole specialists behind a linear router", "ours", (*DIGITS, UNTAGGED),
        *against(_of("twin_merging"), _of("specialists, LDA-routed")),
        better(f"Twin-Merging minus specialists routed by LDA on the base's features, 64 examples a task {_MEAN}"),
    ),
    CompositionClaim(
        "composes", "A learned merge does two skills in turn, and routed specialists do not", "ours", (PAIRS,),
        *against(_of("adamerging, match"), _of("specialists, LDA-routed")),
        better("AdaMerging by matching minus specialists routed by LDA, 64 inputs of each skill's task (mean over the "
               "tasks of two skills in turn)"),
        "neither was given an example of two skills in turn",
    ),
    CompositionClaim(
        "calm", "A specialist that attends to another does two skills in turn better than either of the two",
        "CALM, Bansal et al. 2024", (PAIRS,),
        *against(_of("calm, given the pair"), ("specialists, task known", 0)),
        better("CALM of the two specialists, 64 examples of the pair, minus the better of the two (mean over the tasks "
               "of two skills in turn)"),
        "the better one is chosen on validation and is given no example of the pair; a LoRA that is stands beside",
    ),
    CompositionClaim(
        "x-cross", "Two specialists as streams do two skills in turn better than either of the two",
        "X-Cross, Hadad et al. 2025", (PAIRS,),
        *against(_of("x_cross, given the pair"), ("specialists, task known", 0)),
        better("X-Cross of the two specialists, 64 examples of the pair, minus the better of the two (mean over the "
               "tasks of two skills in turn)"),
        "the better one is chosen on validation; it is given no example of the pair",
    ),
    CompositionClaim(
        "capability-routing", "Capability routing beats whole specialists behind a linear router",
        "Model-SAT, Zhang et al. 2025", (*DIGITS, UNTAGGED),
        *against(_of("capability routing"), _of("specialists, LDA-routed")),
        better(f"capability routing minus specialists routed by LDA, 64 examples a task {_MEAN}"),
        "capability routing is given labels, and may abstain",
    ),
    CompositionClaim(
        "task-expert", "A decoder with an expert for each specialist beats the specialist of each task",
        "TaskExpert, Ye and Xu 2023 (against single-task models)", DIGITS,
        *against(_of("task_expert, task known"), ("specialists, task known", 0)),
        better(f"TaskExpert minus the specialists, 64 labels a task, the task known to both {_MEAN}"),
        "the specialists were trained on all training examples",
    ),
    CompositionClaim(
        "task-tokens", "A tokenizer for each task makes a frozen base better at it",
        "Task Tokens, Vainshtein et al. 2025", DIGITS,
        *against(_of("task_tokens, task known"), ("base", 0)),
        better(f"the base with task tokens, 64 labels a task, minus the base {_MEAN}"),
    ),
    CompositionClaim(
        "arrow", "Arrow beats the mean of the adapters, without any example", "Arrow, Ostapenko et al. 2024",
        (*TEXT, UNTAGGED, PAIRS),
        *against(("arrow", 0), ("mean of adapters", 0)),
        better(f"Arrow minus every adapter with the same weight for all tokens {_MEAN}"),
    ),
    CompositionClaim(
        "mhr-z", "A new task needs its shares of known modules alone", "MHR, Caccia et al. 2023", (*TEXT, UNTAGGED),
        *against(_of("mhr-z, new task"), _of("poly, new task")),
        kept(f"MHR-z, which trains under 1% of the numbers, minus Poly that trains all, on tasks that the modules did "
             f"not see, 64 examples each {_MEAN}", 0.01),
    ),
    CompositionClaim(
        "icm", "A generated adapter beats that of the nearest task", "ICM-LoRA, Shao et al. 2025", TEXT,
        *against(_of("icm_lora, new task"), _of("nearest task's adapter, new task")),
        better(f"ICM-LoRA minus the adapter of the nearest other task, on tasks that have no adapter, 64 inputs each "
               f"{_MEAN}"),
        "one adapter of each other task is learned from, where the authors have many",
    ),
    CompositionClaim(
        "k-shot", "K-shot experts beat the best single adapter on a task that none was trained for",
        "K-shot experts, Yang et al. 2024", (PAIRS,),
        *against(_of("k_shot, given the pairs"), ("best single adapter", 0)),
        better("K-shot experts minus the best adapter on the tasks of two skills in turn, 64 labels of each"),
        "the best adapter is chosen on the validation split",
    ),
    CompositionClaim(
        "learned-real", "A learned merge of a real encoder beats the best static one", "ours", (SENTENCES,),
        *against(_of("adamerging, match"), ("best static merge", 0)),
        better(f"AdaMerging by matching, 64 inputs a task, minus the best static merge {_MEAN}"),
        "the static merge and its factor are chosen by labels",
    ),
    CompositionClaim(
        "fusion", "Factors found at every token beat the best fixed one", "dynamic logit fusion, Fan et al. 2024", TEXT,
        *against(("dynamic_logit_fusion", 0), ("proxy_tuning, scale chosen", 0)),
        better(f"dynamic fusion of four specialists minus proxy tuning, its scale chosen on validation {_MEAN}"),
    ),
    CompositionClaim(
        "steering", "Steering vectors behind layers of their own beat all of them behind one layer",
        "van der Weij et al. 2024", TEXT,
        *against(_of("steering"), _of("steering, one layer")),
        better(f"a layer for each vector minus one layer for all {_MEAN}"),
    ),
)  # fmt: skip

#: Claims that no testbed can answer yet, and why.
UNASKED_CLAIMS = {
    "temperatures": "every task of these testbeds has one right answer, for which the lowest temperature is the best; "
    "adaptive decoding against the best fixed one needs tasks with many right answers beside such tasks",
    "fusion, the gap": "`python -m benchmarks.composition_logits` asks it, with a small and a large model",
}
