"""The claims: for each its source, the question, the testbeds it is put to, what is measured, and the rule.

Every measurement is made of contrasts, pairs of arms on the same test examples; "main" is what the claim is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.claims import arms
from benchmarks.claims.arms import Arm, best, best_of, candidates, mean_score
from benchmarks.claims.breeding import CLAIMS as BREEDING
from benchmarks.claims.claim import Claim, Measurement
from benchmarks.claims.holding import grafted, packed
from benchmarks.claims.keeping import with_selekt, without_selekt
from benchmarks.claims.verdict import Contrast, better, better_at_no_cost, failing, kept
from benchmarks.claims.worlds import GENERIC, World
from genepool.merging import Recipe


def _groups(world: World, size: int) -> list[Sequence[str]]:
    """The specialists in groups of `size`, in order, none left out."""
    return [world.skills[start : start + size] for start in range(0, len(world.skills), size)]


def _contrast(world: World, pairs: Sequence[tuple[Recipe, Recipe, Sequence[str]]]) -> Contrast:
    """First against second recipe on the tasks beside them, on the test split."""
    first: list[Any] = []
    second: list[Any] = []
    for ours, theirs, tasks in pairs:
        for recipe, side in ((ours, first), (theirs, second)):
            scores = world.scores(recipe, tasks, "test")
            side += [scores[task] for task in tasks]
    return Contrast.of(first, second)


def _arm_against_arm(ours: Arm, theirs: Arm) -> Callable[[World], Measurement]:
    """Both with their best settings over all specialists; the mean over the merged skills."""

    def measure(world: World) -> Measurement:
        _, our_settings, our_recipe = best(world, ours, world.skills)
        _, their_settings, their_recipe = best(world, theirs, world.skills)
        main = _contrast(world, [(our_recipe, their_recipe, world.skills)])
        return Measurement({"main": main}, {ours.name: dict(our_settings), theirs.name: dict(their_settings)})

    return measure


def _dare_alone(world: World) -> Measurement:
    """Each specialist with nine tenths of its task vector dropped, against itself, on its own skill."""
    pairs = [
        (world.recipe("dare_linear", [skill], {"density": 0.1}), world.specialist(skill), [skill])
        for skill in world.skills
    ]
    return Measurement({"main": _contrast(world, pairs)})


def _lines_keeps_the_base(world: World) -> Measurement:
    """Task arithmetic with LiNeS and without, each at the setting that keeps most of the base at the same skill."""
    tried: dict[str, list[tuple[float, float, Any, Recipe]]] = {}
    for arm in (arms.LINES, arms.TASK_ARITHMETIC):
        tried[arm.name] = []
        for settings, recipe in candidates(world, arm, world.skills):
            scores = world.scores(recipe, [*world.skills, GENERIC], "valid")
            entry = (mean_score(scores, world.skills), mean_score(scores, [GENERIC]), settings, recipe)
            tried[arm.name].append(entry)
    wanted = max(entry[0] for entry in tried[arms.TASK_ARITHMETIC.name]) - 0.01
    lines, plain = (
        max(entries, key=lambda entry: (entry[0] >= wanted, entry[1] if entry[0] >= wanted else entry[0]))
        for entries in tried.values()
    )
    return Measurement(
        {
            "main": _contrast(world, [(lines[3], plain[3], [GENERIC])]),
            "guard": _contrast(world, [(lines[3], plain[3], world.skills)]),
            "room": _contrast(world, [(world.base(), plain[3], [GENERIC])]),
        },
        {arms.LINES.name: dict(lines[2]), arms.TASK_ARITHMETIC.name: dict(plain[2])},
    )


RIVALS = (arms.AVERAGE, arms.TASK_ARITHMETIC, arms.TIES, arms.DARE_TIES, arms.PCB, arms.LINES)


def _over_all_as_tasks_grow(ours: Arm) -> Callable[[World], Measurement]:
    """Against the rival that is best on validation, over groups of two, four and all specialists."""

    def measure(world: World) -> Measurement:
        contrasts: dict[str, Contrast] = {}
        chosen: dict[str, Any] = {}
        for size in (2, 4, 8):
            if size > len(world.skills):
                continue
            pairs, names = [], []
            for group in _groups(world, size):
                _, settings, recipe = best(world, ours, group)
                rival, rival_settings, rival_recipe = best_of(world, RIVALS, group)
                pairs.append((recipe, rival_recipe, group))
                names.append({ours.name: dict(settings), rival.name: dict(rival_settings)})
            contrasts[f"{size} tasks"] = _contrast(world, pairs)
            chosen[f"{size} tasks"] = names
        # What is claimed is about many tasks: the largest number there is here.
        contrasts["main"] = contrasts[next(reversed(contrasts))]
        return Measurement(contrasts, chosen)

    return measure


def _untuned_over_tuned(ours: Arm) -> Callable[[World], Measurement]:
    """A method as it comes, against the best of task arithmetic, TIES and PCB with their settings chosen."""

    def measure(world: World) -> Measurement:
        _, _, recipe = best(world, ours, world.skills)
        rival, settings, rival_recipe = best_of(world, (arms.TASK_ARITHMETIC, arms.TIES, arms.PCB), world.skills)
        main = _contrast(world, [(recipe, rival_recipe, world.skills)])
        return Measurement({"main": main}, {rival.name: dict(settings)})

    return measure


def _selekt_after(world: World) -> Measurement:
    """Specialists cut back to 5% of their change once, after training, against themselves."""
    main, guard, room = [], [], []
    for skill in world.skills:
        cut, whole = world.recipe("selekt", [skill], {}), world.specialist(skill)
        main.append((cut, whole, [GENERIC]))
        guard.append((cut, whole, [skill]))
        room.append((world.base(), whole, [GENERIC]))
    named: Mapping[str, Any] = {"main": main, "guard": guard, "room": room}
    return Measurement({name: _contrast(world, pairs) for name, pairs in named.items()})


def _selekt_while_training(world: World) -> Measurement:
    """Specialists trained anew without replay, cut back every few steps or never."""
    sides: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in ("main", "guard", "room")}
    base = world.scores(world.base(), [GENERIC], "test")
    for skill in world.skills:
        tasks = [GENERIC, skill]
        cut, whole = with_selekt(world, skill, tasks), without_selekt(world, skill, tasks)
        for name, first, second in (
            ("main", cut[GENERIC], whole[GENERIC]),
            ("guard", cut[skill], whole[skill]),
            ("room", base[GENERIC], whole[GENERIC]),
        ):
            sides[name][0].append(first)
            sides[name][1].append(second)
    return Measurement({name: Contrast.of(first, second) for name, (first, second) in sides.items()})


def _packed_alone(world: World) -> Measurement:
    """Each specialist in a sixteenth of its bytes, against itself, on its own skill."""
    whole = [world.scores(world.specialist(skill), [skill], "test")[skill] for skill in world.skills]
    return Measurement({"main": Contrast.of([packed(world, skill)[skill] for skill in world.skills], whole)})


# A fraction of a percent.
_GRAFTED = 0.005


def _grafted_alone(world: World) -> Measurement:
    """Each specialist cut down to half a percent of its entries, against itself, on its own skill."""
    whole = [world.scores(world.specialist(skill), [skill], "test")[skill] for skill in world.skills]
    few = [grafted(world, skill, _GRAFTED)[skill] for skill in world.skills]
    return Measurement({"main": Contrast.of(few, whole)})


_ALL = ("digits", "text", "acquire")
_RIVALS_NEED = ("linear", "task_arithmetic", "ties", "dare_ties", "pcb", "lines")
_SPECTRAL = (
    ("tsv-m", arms.TSV_M, "TSV-M, Gargiulo et al. 2025 (85.9 on 8 vision tasks; TIES 75.1)"),
    ("iso-c", arms.ISO_C, "Iso-C, Marczak et al. 2025 (86.3 on 8 vision tasks; TSV-M 85.9)"),
    ("iso-cts", arms.ISO_CTS, "Iso-CTS, Marczak et al. 2025 (86.2 on 8 vision tasks, best at 14 and 20)"),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ties-untuned",
        "TIES at its defaults beats plain averaging",
        "Yadav et al. 2023 (72.4 untuned on 8 vision tasks)",
        _ALL,
        ("ties",),
        _arm_against_arm(arms.TIES_DEFAULT, arms.AVERAGE),
        better("TIES minus averaging (mean over the merged skills)"),
    ),
    Claim(
        "ties-tuned",
        "TIES with its factor tuned beats plain averaging",
        "Yadav et al. 2023 (75.1 tuned on 8 vision tasks)",
        _ALL,
        ("ties",),
        _arm_against_arm(arms.TIES, arms.AVERAGE),
        better("TIES minus averaging (mean over the merged skills)"),
    ),
    Claim(
        "trimming",
        "TIES trims better over the whole vector than within each tensor",
        "Yadav et al. 2023, 3.1 (whole vector), against mergekit (per tensor)",
        _ALL,
        ("ties",),
        _arm_against_arm(arms.TIES, arms.TIES_PER_TENSOR),
        better("trimming over the whole vector minus trimming per tensor (both tuned, mean over the merged skills)"),
    ),
    Claim(
        "dare-keeps",
        "DARE keeps a fine-tune's score with 90% of its change dropped",
        "Yu et al. 2024, section 4",
        ("digits", "text"),
        ("dare_linear",),
        _dare_alone,
        kept("each specialist after DARE minus before DARE on its own skill"),
    ),
    Claim(
        "dare-fails-far",
        "DARE at 90% dropped fails on models that moved far",
        "Yu et al. 2024, section 4.5",
        ("acquire",),
        ("dare_linear",),
        _dare_alone,
        failing("each specialist after DARE minus before DARE on its own skill"),
    ),
    Claim(
        "packing",
        "A skill in a sixteenth of the bytes of its bfloat16 change keeps its score within a point",
        "SkillPack of GraftLLM, Du et al. 2025 (mixed precision over singular directions)",
        ("text",),
        (),
        _packed_alone,
        kept("each specialist packed minus unpacked on its own skill", 0.01),
    ),
    Claim(
        "grafting",
        "Half a percent of the entries of a fine-tune, by a learned mask, keep 95% of what it gained",
        "Skill grafting, Panigrahi et al. 2023 (0.01% of the parameters on RoBERTa)",
        ("text",),
        (),
        _grafted_alone,
        kept("each specialist grafted minus whole on its own skill", 0.05),
    ),
    Claim(
        "pcb",
        "PCB beats TIES",
        "PCB-Merging, Du et al. 2024 (76.3 against 75.1 on 8 vision tasks)",
        _ALL,
        ("ties", "pcb"),
        _arm_against_arm(arms.PCB, arms.TIES),
        better("PCB minus TIES (both tuned, mean over the merged skills)"),
    ),
    Claim(
        "lines",
        "LiNeS keeps more of the base at equal skill",
        "LiNeS, Wang et al. 2024",
        _ALL,
        ("task_arithmetic", "lines"),
        _lines_keeps_the_base,
        better_at_no_cost("the general task with LiNeS minus without", "the same for the merged skills"),
    ),
    *(
        Claim(
            name,
            f"{arm.name} beats averaging, task arithmetic, TIES, DARE-TIES, PCB and LiNeS as tasks grow",
            source,
            _ALL,
            (arm.method, *_RIVALS_NEED),
            _over_all_as_tasks_grow(arm),
            better("the method minus the best of the others (all tuned, mean over all merged skills)"),
        )
        for name, arm, source in _SPECTRAL
    ),
    Claim(
        "wudi",
        "WUDI beats tuned merges without any data or tuning",
        "WUDI-Merging, Cheng et al. 2025 (85.2 on 8 vision tasks)",
        _ALL,
        ("wudi", "task_arithmetic", "ties", "pcb"),
        _untuned_over_tuned(arms.WUDI),
        better(
            "WUDI at its defaults minus the best of tuned task arithmetic, TIES and PCB (mean over the merged skills)"
        ),
    ),
    Claim(
        "selekt-after",
        "SeleKT, once after training, keeps other tasks",
        "NextCoder, Aggarwal et al. 2025 (there during training)",
        _ALL,
        ("selekt",),
        _selekt_after,
        better_at_no_cost("the general task after SeleKT minus before", "the same for the specialist's skill"),
    ),
    Claim(
        "selekt-training",
        "SeleKT during training keeps other tasks",
        "NextCoder, Aggarwal et al. 2025 (65.7 against 48.9 on Aider)",
        ("digits",),
        ("selekt",),
        _selekt_while_training,
        better_at_no_cost("the general task with SeleKT minus without", "the same for the specialist's skill"),
    ),
    *BREEDING,
)
