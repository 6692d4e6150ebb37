"""Samplers of parameters: ALP-GMM and AGAIN on cubes that unlock each other, MBTL on poles, MPTS on strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, less, told
from benchmarks.samplers import poles
from benchmarks.samplers.bed import RATE, learned, marks, strings
from benchmarks.samplers.cubes import ENDS, Cubes, arms_of, trained
from genepool.seeding import numpy_generator
from genepool.testbed.data import Lengths
from genepool.testbed.skills import SKILLS
from genepool.training.samplers import make_sampler
from genepool.training.samplers.again import Again, AgainOptions, PastStudent
from genepool.training.samplers.parameters import ParameterSampler

#: The paper's world, and a smaller one with earlier students: cubes along a side, and episodes.
_LARGE, _SMALL = (10, 20_000), (5, 3_000)
#: Earlier students, two for each corner.
_STUDENTS = 8
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
#: Lengths of strings.
_LENGTHS = (3, 4, 5, 6, 7)
#: Any orders whose mean regret is told.
_ORDERS = 50


def _on_cubes(name: str | None, options: Mapping[str, Any], bed: LearningBed, _: float) -> Learned:
    side, episodes = _LARGE
    arms, world = arms_of(side, bed.seed), Cubes(side)
    sampler = None if name is None else make_sampler(name, {"parameters": ENDS, **options}, arms)
    assert sampler is None or isinstance(sampler, ParameterSampler)
    trained(sampler, arms, world, episodes)
    return Learned("", episodes, numbers={"mastered": world.mastered})


def _students(bed: LearningBed) -> list[PastStudent]:
    """Earlier students, by ALP-GMM."""
    if "students" not in bed.shelf:
        side, episodes = _SMALL
        found = []
        for at in range(_STUDENTS):
            arms = arms_of(side, 1000 + _STUDENTS * bed.seed + at)
            sampler = make_sampler("alp_gmm", {"parameters": ENDS}, arms)
            assert isinstance(sampler, ParameterSampler)
            seen = trained(sampler, arms, Cubes(side, _CORNERS[at % len(_CORNERS)]), episodes)
            found.append(PastStudent(str(at), *seen))
        bed.shelf["students"] = found
    students: list[PastStudent] = bed.shelf["students"]
    return students


def _again(student: str | None, bed: LearningBed, _: float) -> Learned:
    side, episodes = _SMALL
    arms = arms_of(side, bed.seed)
    world = Cubes(side, _CORNERS[int(numpy_generator(bed.seed, "corner").integers(len(_CORNERS)))])
    sampler: Any = (
        make_sampler("alp_gmm", {"parameters": ENDS}, arms)
        if student is None
        else Again(AgainOptions(parameters=ENDS, student=student), arms, _students(bed))  # type: ignore[arg-type]
    )
    trained(sampler, arms, world, episodes)
    return Learned("", episodes, numbers={"mastered": world.mastered})


def _poles(regret: Callable[[np.ndarray, int], float], bed: LearningBed, _: float) -> Learned:
    if "poles" not in bed.shelf:
        bed.shelf["poles"] = poles.transfer(bed.seed)
    scores: np.ndarray = bed.shelf["poles"]
    return Learned("", poles.BUDGET, numbers={"regret": regret(scores, bed.seed), "best": float(scores.max(0).mean())})


def _mbtl(scores: np.ndarray, seed: int) -> float:
    return poles.by_mbtl(scores, seed, permuted=False).regret(scores)


def _mbtl_permuted(scores: np.ndarray, seed: int) -> float:
    return poles.by_mbtl(scores, seed, permuted=True).regret(scores)


def _any_order(scores: np.ndarray, seed: int) -> float:
    return float(np.mean([poles.at_random(seed, number).regret(scores) for number in range(_ORDERS)]))


def _equal_distances(scores: np.ndarray, _: int) -> float:
    return poles.regret_of_equal_distances(scores)


def _strings(sampler: str | None, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    folder = strings(bed, SKILLS["reverse"], Lengths(_LENGTHS[0], _LENGTHS[-1]), tags=True)
    made = learned(bed, [folder], rate, sampler, options)
    asked = [strings(bed, SKILLS["reverse"], Lengths(length, length)) for length in _LENGTHS]
    found = marks(bed, made.model, asked)
    worst = min(float(one.mean()) for one in found.values())
    return Learned("", made.steps, marks=found, numbers={"worst": worst}, out=made.out)


def _arm(name: str, words: str, make: Any) -> Arm:
    return Arm(name, words, make, (RATE,), bare=not name.startswith("strings"))


ARMS = (
    _arm("cubes, alp_gmm", "100 cubes that unlock each other, drawn by ALP-GMM", partial(_on_cubes, "alp_gmm", {})),
    _arm("cubes, alp_gmm permuted", "the same with shuffled scores",
         partial(_on_cubes, "alp_gmm", {"permuted": True})),
    _arm("cubes, any", "the same cubes, any point as likely as any other", partial(_on_cubes, None, {})),
    _arm("students, again", "25 cubes, any corner open first: AGAIN with eight earlier students",
         partial(_again, "best")),
    _arm("students, again any", "the same with any of the students", partial(_again, "any")),
    _arm("students, alp_gmm", "the same by ALP-GMM alone", partial(_again, None)),
    _arm("poles, mbtl", "poles of ten lengths: lengths to train on by MBTL", partial(_poles, _mbtl)),
    _arm("poles, mbtl permuted", "the same with shuffled scores", partial(_poles, _mbtl_permuted)),
    _arm("poles, any order", f"the mean of {_ORDERS} orders", partial(_poles, _any_order)),
    _arm("poles, equal distances", "as many lengths at equal distances", partial(_poles, _equal_distances)),
    _arm("strings, mpts", "strings of 3 to 7 letters to reverse, drawn by MPTS", partial(_strings, "mpts", {})),
    _arm("strings, mpts permuted", "the same with shuffled losses", partial(_strings, "mpts", {"permuted": True})),
    _arm("strings, rounds", "the same in shuffled rounds", partial(_strings, None, {})),
)  # fmt: skip


def _more(
    name: str, words: str, source: str, first: str, second: str, number: str, what: str, remark: str = ""
) -> LearningClaim:
    compare = told((first, number), (second, number))
    return LearningClaim(name, words, source, (first, second), compare, better(what), remark)


def _regret(name: str, words: str, second: str, what: str) -> LearningClaim:
    return LearningClaim(
        name, words, "Cho et al. 2024 (MBTL)", ("poles, mbtl", second),
        told(("poles, mbtl", "regret"), (second, "regret")), less(f"the regret of MBTL minus that of {what}"),
        "replayed on known transfer between ten trained policies; the mean over one to five of them",
    )  # fmt: skip


# What the table of arms shows: the rule is about a length that no arm comes to know.
_UNLEARNED = "after these steps no arm answers the longest strings, so there is nothing to differ in"
_ALP, _META, _MPTS = "Portelas et al. 2019 (ALP-GMM)", "Portelas et al. 2020 (AGAIN)", "Wang et al. 2025 (MPTS)"

CLAIMS = (
    _more("alp-gmm", "ALP-GMM masters more cubes than draws at random", _ALP, "cubes, alp_gmm", "cubes, any",
          "mastered", "ALP-GMM minus draws at random (share of mastered cubes)"),
    _more("alp-gmm-scores", "What it observes is why", _ALP, "cubes, alp_gmm", "cubes, alp_gmm permuted",
          "mastered", "ALP-GMM minus ALP-GMM with shuffled scores (share of mastered cubes)"),
    _more("again", "An earlier student's curriculum masters more cubes than ALP-GMM alone", _META,
          "students, again", "students, alp_gmm", "mastered", "AGAIN minus ALP-GMM (share of mastered cubes)"),
    _more("again-student", "Which student is why", _META, "students, again", "students, again any",
          "mastered", "AGAIN minus AGAIN with any student (share of mastered cubes)"),
    _regret("mbtl", "MBTL trains on better contexts than any order", "poles, any order", "any order"),
    _regret("mbtl-distances", "MBTL trains on better contexts than equal distances", "poles, equal distances",
            "equal distances"),
    _regret("mbtl-scores", "What it observes is why", "poles, mbtl permuted", "MBTL with shuffled scores"),
    _more("mpts", "With MPTS the worst length is known better", _MPTS, "strings, mpts", "strings, rounds",
          "worst", "MPTS minus shuffled rounds (share of right answers on the worst length)", _UNLEARNED),
    _more("mpts-losses", "What it observes is why", _MPTS, "strings, mpts", "strings, mpts permuted",
          "worst", "MPTS minus MPTS with shuffled losses (share of right answers on the worst length)", _UNLEARNED),
)  # fmt: skip
