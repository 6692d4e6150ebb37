"""What is measured: composers with their options, and the references that stand in every table.

An arm is a function of a testbed and a number of examples, and says on which testbeds and with how many examples of
each task it is measured. What a composer's options say nothing of is its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.claims import arms as static
from benchmarks.claims.worlds import GENERIC
from benchmarks.composition import beside, generated
from benchmarks.composition.apart import factors_apart
from benchmarks.composition.bed import (
    DIGITS,
    FULL,
    PAIR_TASKS,
    PAIRS,
    SENTENCES,
    TEXT,
    UNTAGGED,
    Bed,
    timed,
)
from benchmarks.composition.cells import Cell
from benchmarks.composition.routed import ROUTERS, routed
from benchmarks.composition.shared_modules import HEADS, known_tasks, new_tasks
from genepool.composition import Composition, MergedComposition, find_composer, inputs, make_composer
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.fitting import FitOptions
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.module_fit import ModuleFitOptions
from genepool.merging import Recipe
from genepool.tasks.models import Source

SIZES = (0, 16, 64, 256)
#: The number of examples of each task that composers are compared with when there is only one.
ONE = 64
#: The static merges that the best is chosen of, on the validation split.
STATIC = (static.AVERAGE, static.TASK_ARITHMETIC, static.TIES, static.TSV_M, static.ISO_C)
#: Steps of a fit by gradient on the small testbeds and on those of one question, at most, where an arm says nothing of
#: them. On the full ones they are the composer's own.
SHORT = 100
#: The steps of the authors of AdaMerging, who hold nothing out.
AUTHORS_STEPS = {"objective": "entropy", "learning_rate": 1e-3, "steps": 500, "patience": 0}
# Of shifts of several models that are added up, of sums of adapters, and of merges in a common space.
SUM_SCALES = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
SPACE_SCALES = (0.3, 0.5, 0.7, 1.0, 1.5)

Measure = Callable[[Bed, int], Cell]


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: in tables and on the command line.
        measure: a testbed and the number of examples of each task -> what came of it.
        beds: where it is measured.
        sizes: with how many examples of each task; 0 for what uses none.
    """

    name: str
    measure: Measure
    beds: tuple[str, ...]
    sizes: tuple[int, ...]

    def sizes_on(self, bed: str) -> tuple[int, ...]:
        """With how many examples of each task it is measured on a testbed; with one number on those of one question."""
        if bed in DIGITS + TEXT:
            return self.sizes
        return (ONE,) if ONE in self.sizes else self.sizes[:1]


def learned(method: str, *, adapters: bool = False, pairs: bool = False, **options: Any) -> Measure:
    """An arm of a composer that is fitted once for all skills; with 0 examples it is what its fit begins at.

    Args:
        method: the composer.
        adapters: of the adapters instead of the fine-tunes.
        pairs: with examples of the tasks of two skills in turn, instead of those of the skills.
        options: of the composer.
    """

    def measure(bed: Bed, examples: int) -> Cell:
        composer = make_composer(method, options)
        if not examples and composer.needs != "nothing":
            return bed.cell(lambda: start_of(bed, method, options))
        settings = short(bed, method, options)
        tasks = bed.pairs if pairs else ()
        composition, seconds = timed(lambda: bed.fitted(method, settings, examples, adapters=adapters, tasks=tasks))
        return Cell(bed.ask(composition.source()), seconds, _told(composition))

    return measure


def short(bed: Bed, method: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of a composer, with fewer steps on a small testbed; see `SHORT`."""
    by_gradient = issubclass(find_composer(method).Options, FitOptions | ModuleFitOptions)
    return {"steps": SHORT, **options} if by_gradient and bed.kind not in {kind.name for kind in FULL} else options


def chosen(method: str, grid: Sequence[Mapping[str, Any]], *, adapters: bool = False) -> Measure:
    """As `learned`, of the options that do best on the validation split."""

    def measure(bed: Bed, examples: int) -> Cell:
        def best() -> tuple[float, Mapping[str, Any]]:
            made = ((options, bed.fitted(method, options, examples, adapters=adapters).source()) for options in grid)
            scored = [(_mean(bed.ask(model, bed.judged, "valid")), options) for options, model in made]
            return max(scored, key=lambda entry: entry[0])

        (_, options), seconds = timed(best)
        model = bed.fitted(method, options, examples, adapters=adapters).source()
        return Cell(bed.ask(model), seconds, {"chosen": dict(options)})

    return measure


def each(method: str, **options: Any) -> Measure:
    """An arm of a composer that takes a single skill: one composition for each, asked about its own task."""

    def measure(bed: Bed, examples: int) -> Cell:
        scores, total = {}, 0.0
        for skill in bed.skills:
            only = (skill,)
            made, seconds = timed(partial(bed.fitted, method, options, examples, only=only, tasks=only))
            scores |= bed.ask(made.source(), only)
            total += seconds
        return Cell(scores, total)

    return measure


def known_task(method: str, **options: Any) -> Measure:
    """An arm of a composition that is told the task: each task of a skill is asked of its own model."""

    def measure(bed: Bed, examples: int) -> Cell:
        whole, seconds = timed(lambda: bed.fitted(method, options, examples))
        models = {skill: whole.for_task(skill).source() for skill in bed.skills}
        return Cell(_joined(bed.ask(model, (skill,)) for skill, model in models.items()), seconds)

    return measure


def start_of(bed: Bed, method: str, options: Mapping[str, Any]) -> Source:
    """What a composer's fit begins at: its first coefficients; of merges by statistics, the plain average."""
    composer = make_composer(method, options)
    skills = bed.opened(composer)
    if not isinstance(composer, LearnedMerge):
        return _average(bed, adapters=False).source()
    changes = composer.made_of(skills)
    layout = CoefficientLayout(len(skills.skills), skills.vectors(changes=changes).names, composer.parts())
    scales = composer.parametrised(skills, layout, bed.seed)
    return MergedComposition(composer, skills, {}, scales.coefficients(scales.start()), changes=changes).source()


def weighted(bed: Bed, factor: float, *, adapters: bool) -> Composition:
    """The base and every skill times one factor."""
    import torch

    composer = make_composer("lorahub", {})
    skills = bed.opened(composer, adapters=adapters)
    layout = CoefficientLayout(len(skills.skills), skills.vectors().names)
    return MergedComposition(composer, skills, {}, torch.full(layout.shape, factor))


def _average(bed: Bed, *, adapters: bool) -> Composition:
    return weighted(bed, 1 / len(bed.skills), adapters=adapters)


def _of_recipe(make: Callable[[Bed], tuple[Recipe, Mapping[str, Any]]]) -> Measure:
    def measure(bed: Bed, examples: int) -> Cell:
        recipe, said = make(bed)
        return Cell(bed.scores(recipe, bed.asked_tasks, "test"), 0.0, said)

    return measure


def _best_static(bed: Bed) -> tuple[Recipe, Mapping[str, Any]]:
    arm, settings, recipe = _best(bed, STATIC)
    return recipe, {"chosen": {"method": arm.name, **settings}}


def _task_arithmetic(bed: Bed) -> tuple[Recipe, Mapping[str, Any]]:
    _, settings, recipe = _best(bed, (static.TASK_ARITHMETIC,))
    return recipe, {"chosen": dict(settings)}


def _best(bed: Bed, arms: Sequence[static.Arm]) -> tuple[static.Arm, static.Settings, Recipe]:
    """The static merge of all skills that does best on the validation split, the first of equals."""

    def score(recipe: Recipe) -> float:
        return static.mean_score(bed.scores(recipe, bed.judged, "valid"), bed.judged)

    tried = ((arm, *one) for arm in arms for one in static.candidates(bed, arm, bed.skills))
    return max(tried, key=lambda entry: score(entry[2]))


def _specialists(bed: Bed, examples: int) -> Cell:
    """Every task asked of its own specialist, the general one of the base.

    Two skills in turn are asked of the one of their two specialists that does better on the validation split.
    """
    own = _joined(bed.scores(bed.specialist(skill), (skill,), "test") for skill in bed.skills)
    for pair in bed.pairs:
        two = [bed.specialist(skill) for skill in PAIR_TASKS[pair]]
        better = max(two, key=lambda recipe: bed.scores(recipe, (pair,), "valid")[pair].mean())
        own |= bed.scores(better, (pair,), "test")
    return Cell(own | bed.scores(bed.base(), (GENERIC,), "test"), 0.0)


def _own_adapters(bed: Bed, examples: int) -> Cell:
    """As `_specialists`, of adapters."""
    composer = make_composer("lorahub", {})
    models = {skill.name: skill.source for skill in bed.opened(composer, adapters=True).skills}
    own = _joined(bed.ask(model, (skill,)) for skill, model in models.items())
    return Cell(own | bed.scores(bed.base(), (GENERIC,), "test"), 0.0)


def _best_adapter(bed: Bed, examples: int) -> Cell:
    """The adapter with the best mean over all judged tasks on the validation split, alone."""
    skills = bed.opened(make_composer("lorahub", {}), adapters=True).skills
    best = max(skills, key=lambda skill: _mean(bed.ask(skill.source, bed.judged, "valid")))
    return Cell(bed.ask(best.source), 0.0, {"chosen": best.name})


def _sum_of_adapters(bed: Bed, examples: int) -> Cell:
    """The adapters' sum with one factor, chosen on the validation split."""

    def best() -> float:
        return max(
            SUM_SCALES,
            key=lambda one: _mean(bed.ask(weighted(bed, one, adapters=True).source(), bed.skills, "valid")),
        )

    factor, seconds = timed(best)
    return Cell(bed.ask(weighted(bed, factor, adapters=True).source()), seconds, {"chosen": factor})


def as_its_authors(**options: Any) -> Measure:
    """AdaMerging by entropy as its authors do it: nothing is held out, and the last state is the result."""

    def measure(bed: Bed, examples: int) -> Cell:
        with nothing_held_out():
            return learned("adamerging", **{**AUTHORS_STEPS, **options})(bed, examples)

    return measure


@contextmanager
def nothing_held_out() -> Iterator[None]:
    """Fits inside the block learn from all of their inputs, so nothing tells them when to stop."""
    with patch.object(inputs, "_HELD", 0.0):
        yield


#: Of each testbed, the skills that are unlearned, one at a time.
FORGOTTEN = 2
#: What the control of an unlearned skill is called in a cell, in front of the skill's name.
CONTROL = "general without "


def forgotten(bed: Bed, examples: int) -> Cell:
    """Each of some skills is unlearned from the base by its own vector, with the general task as the control.

    The cell has the marks on the skill's own task by its name, and those on the control by `CONTROL` and that name.
    """
    scores, total = {}, 0.0
    for skill in bed.skills[:FORGOTTEN]:
        fit = partial(bed.fitted, "atlas", short(bed, "atlas", {"forget": [skill]}), examples)
        tasks = (skill, GENERIC)
        made, seconds = timed(partial(fit, only=(skill,), tasks=tasks))
        asked = bed.ask(made.source(), tasks)
        scores |= {skill: asked[skill], f"{CONTROL}{skill}": asked[GENERIC]}
        total += seconds
    return Cell(scores, total)


def _told(composition: Composition) -> dict[str, Any]:
    """How a fit went, in a few numbers."""
    return {key: composition.record[key] for key in ("steps", "best_step", "stopped") if key in composition.record}


def _joined(parts: Any) -> dict[str, np.ndarray]:
    return dict(chain.from_iterable(part.items() for part in parts))


def _mean(scores: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([marks.mean() for marks in scores.values()]))


_BOTH = DIGITS + TEXT
# The testbeds of one question: all of them, those of strings, and those whose every task is a skill's own.
_FURTHER = (UNTAGGED, PAIRS, SENTENCES)
_ALL, _STRINGS, _OWN = _BOTH + _FURTHER, (UNTAGGED, PAIRS), (*_BOTH, UNTAGGED, SENTENCES)
REFERENCES = (
    Arm("base", _of_recipe(lambda bed: (bed.base(), {})), _ALL, (0,)),
    Arm("best static merge", _of_recipe(_best_static), _ALL, (0,)),
    Arm("tuned task arithmetic", _of_recipe(_task_arithmetic), _ALL, (0,)),
    Arm("specialists, task known", _specialists, _ALL, (0,)),
    *(Arm(name, routed(name), _ALL, SIZES[1:]) for name in list(ROUTERS)[:2]),
)
CURVES = (
    Arm("adamerging, match", learned("adamerging"), _ALL, SIZES),
    Arm("adamerging, entropy", learned("adamerging", objective="entropy"), _ALL, SIZES),
    Arm("adamerging_pp, match", learned("adamerging_pp"), _ALL, SIZES),
    Arm("atlas", learned("atlas"), _ALL, SIZES),
    Arm("learned_lines", learned("learned_lines"), _ALL, SIZES),
    Arm("role_scales", learned("role_scales"), _ALL, SIZES),
    Arm("regmean", learned("regmean"), _ALL, SIZES),
    Arm("fisher", learned("fisher"), _ALL, SIZES),
)
ADAPTERS = (
    Arm("adapters, task known", _own_adapters, TEXT, (0,)),
    Arm("best single adapter", _best_adapter, TEXT + _STRINGS, (0,)),
    Arm("mean of adapters", lambda bed, _: bed.cell(_average(bed, adapters=True).source), TEXT + _STRINGS, (0,)),
    Arm("sum of adapters, factor chosen", _sum_of_adapters, TEXT, (0,)),
    Arm("scalearn", learned("scalearn", adapters=True), TEXT, (ONE,)),
    Arm("lorahub", learned("lorahub", adapters=True), TEXT, (16, ONE)),
    Arm("lorahub, factors added apart", factors_apart, TEXT, (16, ONE)),
    Arm("knots", chosen("knots", [{"scale": one} for one in SPACE_SCALES], adapters=True), TEXT, (0,)),
    Arm("core_space", chosen("core_space", [{"scale": one} for one in SPACE_SCALES], adapters=True), TEXT, (0,)),
    Arm("icm_lora, new task", partial(generated.for_new_task, method="icm_lora"), TEXT, (ONE,)),
    Arm("nearest task's adapter, new task", generated.of_nearest_task, TEXT, (ONE,)),
)
OTHERS = (
    Arm("regmean_pp", learned("regmean_pp"), _BOTH, (ONE,)),
    Arm("emr, task known", known_task("emr"), _OWN, (0,)),
    Arm("twin_merging", learned("twin_merging"), _ALL, (ONE,)),
    Arm("twin_merging, task known", known_task("twin_merging"), _OWN, (ONE,)),
    Arm(
        "proxy_tuning, scale chosen",
        chosen("proxy_tuning", [{"scale": one} for one in SUM_SCALES]),
        TEXT + _STRINGS,
        (0,),
    ),
    Arm("emulated_fine_tuning", learned("emulated_fine_tuning"), TEXT, (0,)),
    Arm("contrastive, task known", each("contrastive"), TEXT, (0,)),
    Arm("dynamic_logit_fusion", learned("dynamic_logit_fusion"), TEXT + _STRINGS, (0,)),
    Arm("weighted_by_shift", learned("weighted_by_shift"), TEXT + _STRINGS, (0,)),
    Arm("steering", learned("steering"), TEXT, (ONE,)),
    Arm("steering, one layer", learned("steering", place="one"), TEXT, (ONE,)),
    Arm("adaptive_decoding, task known", each("adaptive_decoding"), TEXT, (ONE,)),
    Arm("atlas, given the pairs", learned("atlas", pairs=True), (PAIRS,), (ONE,)),
    Arm("lorahub, given the pairs", learned("lorahub", adapters=True, pairs=True), (PAIRS,), (ONE,)),
)
#: Whole models behind routers, and modules beside frozen models.
BESIDE = (
    *(Arm(name, routed(name), _ALL, (ONE,)) for name in list(ROUTERS)[2:]),
    Arm("calm, given the pair", partial(beside.each_pair, method="calm"), (PAIRS,), (ONE,)),
    Arm("a LoRA as large, given the pair", beside.lora_of_each_pair, (PAIRS,), (ONE,)),
    Arm("x_cross, given the pair", partial(beside.each_pair, method="x_cross"), (PAIRS,), (ONE,)),
    Arm("task_expert, task known", partial(beside.told_tasks, method="task_expert", frozen=False), DIGITS, (ONE,)),
    Arm("task_tokens, task known", partial(beside.told_tasks, method="task_tokens", frozen=True), DIGITS, (ONE,)),
)
#: Routers of tokens and tasks, of adapters.
ROUTED = (
    Arm("arrow", learned("arrow", adapters=True), TEXT + _STRINGS, (0,)),
    Arm("lora_flow", learned("lora_flow", adapters=True), TEXT + _STRINGS, (ONE,)),
    Arm("x_lora", learned("x_lora", adapters=True), TEXT + _STRINGS, (ONE,)),
    Arm("k_shot", learned("k_shot", adapters=True), TEXT + _STRINGS, (ONE,)),
    Arm("k_shot, given the pairs", learned("k_shot", adapters=True, pairs=True), (PAIRS,), (ONE,)),
    Arm("lora_flow, given the pairs", learned("lora_flow", adapters=True, pairs=True), (PAIRS,), (ONE,)),
    Arm("poly, task known", known_tasks("poly"), (*TEXT, UNTAGGED), (ONE,)),
    Arm("mhr, task known", known_tasks("mhr", heads=HEADS), (*TEXT, UNTAGGED), (ONE,)),
    Arm("poly, new task", new_tasks("poly", "all"), (*TEXT, UNTAGGED), (ONE,)),
    Arm("mhr-z, new task", new_tasks("mhr", "z", heads=HEADS), (*TEXT, UNTAGGED), (ONE,)),
    Arm("mhr-mu, new task", new_tasks("mhr", "mu", heads=HEADS), (*TEXT, UNTAGGED), (ONE,)),
)
#: Only claims need these.
ASIDE = (
    Arm("entropy as its authors", as_its_authors(), DIGITS, (ONE,)),
    Arm("entropy by task, 100 steps", as_its_authors(by="task", steps=100), DIGITS, (ONE,)),
    Arm("entropy by task, 500 steps", as_its_authors(by="task"), DIGITS, (ONE,)),
    Arm("likelihood, by tensor", learned("adamerging", objective="likelihood"), _BOTH, (ONE,)),
    Arm("likelihood, by task", learned("adamerging", objective="likelihood", by="task"), _BOTH, (ONE,)),
    Arm("unlearned", forgotten, _BOTH, (ONE,)),
)
ARMS = (*REFERENCES, *CURVES, *ADAPTERS, *OTHERS, *BESIDE, *ROUTED, *ASIDE)
