"""Samplers of single examples: cyclical curricula on four skills at once, and LESS on a mixture without names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.nn import functional

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored, told
from benchmarks.samplers.bed import FOUR, RATE, learned
from genepool.tasks import load_tasks, open_model
from genepool.tasks.reading import example_from
from genepool.training.journal import Journal

#: The skill that is wanted of the mixture; examples of each skill in it; validation examples of the wanted one.
_WANTED, _EACH, _VALID = "sort", 100, 32
#: The part of the mixture that is trained on, and steps on it.
_PART, _SHORT = 0.1, 40


def _cyclical(sampler: str | None, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    made = learned(bed, [bed.bed.tasks / name for name in FOUR], rate, sampler, options)
    return Learned("", made.steps, marks=bed.ask(bed.source(made.model), FOUR), out=made.out)


def _mixture(bed: LearningBed) -> Any:
    if "mixture" not in bed.shelf:
        lines = [
            {"prompt": one.prompt, "answer": one.answer}
            for skill in FOUR
            for one in bed.tasks[skill].examples("train")[:_EACH]
        ]
        valid = [{"prompt": one.prompt, "answer": one.answer} for one in bed.tasks[_WANTED].examples("valid")[:_VALID]]
        place = FOUR.index(_WANTED) * _EACH
        wanted = {example_from({**line, "id": "1"}, "mixture").key for line in lines[place : place + _EACH]}
        data = bed.written("mixture", lines, len(lines), task="mixture", like=_WANTED, valid=valid)
        bed.shelf["mixture"] = (data.folder, wanted)
    return bed.shelf["mixture"]


def _nearest(bed: LearningBed) -> Path:
    """The mixture's examples whose inputs are most like the validation examples' to the base, by mean cosine."""
    folder, _ = _mixture(bed)
    (task,) = load_tasks(folder)
    model = open_model(str(bed.bed.base)).load()
    train, valid = task.examples("train"), task.examples("valid")
    own, wanted = (
        functional.normalize(model.embeddings([task.prompt_for(one, model) for one in some]).float(), dim=-1)
        for some in (train, valid)
    )
    nearest = (own @ wanted.T).mean(1).argsort(descending=True, stable=True)[: round(_PART * len(train))]
    lines, beside = (
        [{"prompt": one.prompt, "answer": one.answer} for one in some]
        for some in ([train[place] for place in nearest.tolist()], valid)
    )
    return bed.written("nearest", lines, len(lines), task="mixture", like=_WANTED, valid=beside).folder


def _picked(sampler: str | None, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    more = {} if sampler else {"portions": {"mixture": _PART}}
    return _of_mixture(bed, _mixture(bed)[0], rate, sampler, options, **more)


def _picked_nearest(bed: LearningBed, rate: float) -> Learned:
    return _of_mixture(bed, _nearest(bed), rate, None, {})


def _of_mixture(
    bed: LearningBed, folder: Path, rate: float, sampler: str | None, options: Mapping[str, Any], **more: Any
) -> Learned:
    _, wanted = _mixture(bed)
    made = learned(bed, [folder], rate, sampler, options, steps=_SHORT, valid=_VALID, **more)
    with Journal(made.out / "run.sqlite") as journal:
        taken = {key for _, key in journal.examples()}
    asked = bed.ask(bed.source(made.model), (_WANTED,))
    found = Learned("", made.steps, marks=asked, out=made.out)
    return found.saying(share=len(taken & wanted) / len(taken))


_LESS = {"part": _PART, "epochs": 2}
ARMS = (
    Arm("four, rounds", "four skills in shuffled rounds of all examples", partial(_cyclical, None, {}), (RATE,)),
    Arm("four, cyclical", "four skills by a cyclical curriculum", partial(_cyclical, "cyclical", {}), (RATE,)),
    Arm("four, cyclical permuted", "the same with shuffled losses",
        partial(_cyclical, "cyclical", {"permuted": True}), (RATE,)),
    Arm("mixture, less", f"{_PART:.0%} of a mixture of four skills, picked by LESS for {_WANTED}",
        partial(_picked, "less", _LESS), (RATE,)),
    Arm("mixture, less permuted", "the same with shuffled scores",
        partial(_picked, "less", {**_LESS, "permuted": True}), (RATE,)),
    Arm("mixture, nearest", "as many of its examples, those most like the validation examples to the base",
        _picked_nearest, (RATE,)),
    Arm("mixture, any", "as many examples of the mixture, drawn", partial(_picked, None, {}), (RATE,)),
)  # fmt: skip

_KESGIN, _XIA = "Kesgin and Amasyali 2022", "Xia et al. 2024 (LESS)"

CLAIMS = (
    LearningClaim(
        "cyclical", "A cyclical curriculum ends higher than shuffled rounds", _KESGIN,
        ("four, cyclical", "four, rounds"), scored("four, cyclical", "four, rounds", FOUR),
        better("the cyclical curriculum minus shuffled rounds (four skills)"),
        "its first model was trained for as many steps again, which shuffled rounds had not",
        same_examples=True,
    ),
    LearningClaim(
        "cyclical-easy", "Which examples are easy is why", _KESGIN,
        ("four, cyclical", "four, cyclical permuted"), scored("four, cyclical", "four, cyclical permuted", FOUR),
        better("the cyclical curriculum minus that with shuffled losses (four skills)"),
        same_examples=True,
    ),
    LearningClaim(
        "less-share", "LESS picks examples of the wanted skill, which no name tells", _XIA,
        ("mixture, less",), told(("mixture, less", "share"), 1 / len(FOUR)),
        better("the share of the wanted skill among the picked examples, minus its share in the mixture,"),
    ),
    LearningClaim(
        "less", "Training on what LESS picks is better than on as many drawn examples", _XIA,
        ("mixture, less", "mixture, any"), scored("mixture, less", "mixture, any", (_WANTED,)),
        better("LESS minus drawn examples (the wanted skill)"),
        same_examples=True,
    ),
    LearningClaim(
        "less-nearest", "What LESS picks is better than what looks most alike to the base", _XIA,
        ("mixture, less", "mixture, nearest"), scored("mixture, less", "mixture, nearest", (_WANTED,)),
        better("LESS minus the examples nearest by their embeddings (the wanted skill)"),
        same_examples=True,
    ),
    LearningClaim(
        "less-scores", "Its scores are why", _XIA,
        ("mixture, less", "mixture, less permuted"),
        scored("mixture, less", "mixture, less permuted", (_WANTED,)),
        better("LESS minus LESS with shuffled scores (the wanted skill)"),
        same_examples=True,
    ),
)  # fmt: skip
