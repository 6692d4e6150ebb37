"""The dual-stage mix: all skills first, then general data with a small part of theirs; that part is swept."""

from __future__ import annotations

from functools import partial

from benchmarks.claims.verdict import MARGIN, better, kept
from benchmarks.claims.worlds import GENERIC
from benchmarks.learning.arm import Arm, Make
from benchmarks.learning.bed import LABELS, STEPS, TARGET, Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, forgotten, scored
from genepool.testbed.skills import DEFAULT_SKILLS

_SKILLS = DEFAULT_SKILLS
_ALL = (*_SKILLS, GENERIC)
#: Steps for all skills together, and then on general data.
_FIRST, _SECOND = 2 * STEPS, STEPS
#: The learning rate of every stage: the best of supervised trainings on this testbed.
_RATE = 1.5e-3
#: Parts of the skills' data in the second stage; the paper's best is the smallest one, which is one example of each.
_PARTS = (256, 64, 16, 4)


def _data(bed: LearningBed) -> dict[str, Data]:
    """The labelled examples of every task, made once."""
    if not bed.shelf.get("dual stage"):
        others = {task: bed.answers("main", task) for task in _ALL if task != TARGET}
        bed.shelf["dual stage"] = {TARGET: bed.labelled, **others}
    found: dict[str, Data] = bed.shelf["dual stage"]
    return found


def _together(bed: LearningBed, tasks: tuple[str, ...]) -> Data:
    first, *others = (_data(bed)[task] for task in tasks)
    return Data(first.folder, LABELS * len(tasks), beside=tuple(one.folder for one in others))


def _all_skills(bed: LearningBed) -> Learned:
    """The first stage."""
    if "all skills" not in bed.shelf:
        bed.shelf["all skills"] = bed.learn(_together(bed, _SKILLS), steps=_FIRST, learning_rate=_RATE)
    found: Learned = bed.shelf["all skills"]
    return found


def _one_by_one(bed: LearningBed) -> Learned:
    """Every skill by itself, one after the other, the same steps in all."""
    if "one by one" not in bed.shelf:
        model = ""
        for task in _SKILLS:
            model = bed.learn(_data(bed)[task], base=model, steps=_FIRST // len(_SKILLS), learning_rate=_RATE).model
        bed.shelf["one by one"] = Learned(model, _FIRST)
    found: Learned = bed.shelf["one by one"]
    return found


def _general(bed: LearningBed, rate: float, first: Learned, part: int | None) -> Learned:
    """The second stage: general data, and a part of the skills' unless that is none."""
    mixed: dict[str, object] = {}
    data = _data(bed)[GENERIC]
    if part is not None:
        data = _together(bed, (GENERIC, *_SKILLS))
        mixed["portions"] = dict.fromkeys(_SKILLS, 1 / part)
    second = bed.learn(data, base=first.model, steps=_SECOND, learning_rate=rate, **mixed)
    return Learned(second.model, _FIRST + _SECOND, labels=LABELS * len(_ALL))


def _dual(bed: LearningBed, rate: float, part: int | None) -> Learned:
    return _general(bed, rate, _all_skills(bed), part)


def _sequential(bed: LearningBed, rate: float) -> Learned:
    return _general(bed, rate, _one_by_one(bed), None)


def _at_once(bed: LearningBed, rate: float) -> Learned:
    return bed.learn(_together(bed, (GENERIC, *_SKILLS)), steps=_FIRST + _SECOND, learning_rate=rate)


def _arm(name: str, words: str, make: Make) -> Arm:
    return Arm(name, words, make, (_RATE,))


ARMS = (
    _arm("all at once", "supervised, on four skills and the general task together", _at_once),
    _arm("sequential", "one skill after the other, then the general task", _sequential),
    _arm("general last", "four skills together, then the general task alone", partial(_dual, part=None)),
    *(
        _arm(f"dual-stage, 1/{part}", f"four skills together, then the general task with 1/{part} of their examples",
             partial(_dual, part=part))
        for part in _PARTS
    ),
)  # fmt: skip

_DONG = "Dong et al. 2024 (DMT)"
_BEST = f"dual-stage, 1/{_PARTS[0]}"
_MORE = f"dual-stage, 1/{_PARTS[-1]}"

CLAIMS = (
    LearningClaim(
        "dual-stage-skills", "A few examples of the skills keep them while general data is learned", _DONG,
        (_BEST, "general last"), scored(_BEST, "general last", _SKILLS),
        better(f"1/{_PARTS[0]} of the skills' examples minus none (four skills)"),
    ),
    LearningClaim(
        "dual-stage-general", "The dual-stage mix keeps the general task as well as training in sequence", _DONG,
        (_BEST, "sequential"), forgotten(_BEST, "sequential"),
        kept("the dual-stage mix minus one skill after the other and then the general task (general task)", MARGIN),
    ),
    LearningClaim(
        "dual-stage-sequence", "The dual-stage mix keeps more of the skills than training in sequence", _DONG,
        (_BEST, "sequential"), scored(_BEST, "sequential", _SKILLS),
        better("the dual-stage mix minus one skill after the other and then the general task (four skills)"),
    ),
    LearningClaim(
        "dual-stage-once", "The dual-stage mix keeps more of the general task than all data at once", _DONG,
        (_BEST, "all at once"), forgotten(_BEST, "all at once"),
        better("the dual-stage mix minus all data at once, equally many steps (general task)"),
    ),
    LearningClaim(
        "dual-stage-part", f"A part of 1/{_PARTS[0]} is better than a large one", _DONG,
        (_BEST, _MORE), scored(_BEST, _MORE, _ALL),
        better(f"1/{_PARTS[0]} of the skills' examples minus 1/{_PARTS[-1]} (four skills and the general task)"),
        "1/256 of 256 examples is one",
    ),
)  # fmt: skip
