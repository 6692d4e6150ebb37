"""SequenceMatch against likelihood, with and without a backspace in its answers."""

from __future__ import annotations

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm, trained
from benchmarks.learning.bed import RATES, Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, target
from genepool.seeding import numpy_generator
from genepool.testbed.skills import LETTERS
from genepool.weights.control import CONTROL_FILE, Control

#: A token that no answer of the testbed holds.
_BACK = "~"


def _mistaken(bed: LearningBed) -> Data:
    """The labelled answers, half of them with one wrong letter that is taken back."""
    if "mistaken" not in bed.shelf:
        lines = []
        for one in bed.examples("main"):
            generator, answer = numpy_generator(bed.seed, "mistaken", one.prompt), one.answer
            if generator.random() < 0.5:
                at = int(generator.integers(len(answer)))
                wrong = LETTERS.replace(answer[at], "")[int(generator.integers(len(LETTERS) - 1))]
                answer = f"{answer[:at]}{wrong}{_BACK}{answer[at:]}"
            lines.append({"prompt": one.prompt, "answer": answer})
        bed.shelf["mistaken"] = bed.written("mistaken", lines, len(lines))
    found: Data = bed.shelf["mistaken"]
    return found


def _with_backspace(bed: LearningBed, rate: float) -> Learned:
    """Likelihood of the same; its adapter says, as SequenceMatch does, that whoever asks takes letters back."""
    made = bed.learn(_mistaken(bed), learning_rate=rate)
    (made.out / "adapter" / CONTROL_FILE).write_text(Control(backspace=_BACK).text(), encoding="utf-8")
    return made


ARMS = (
    trained("sequence match", "SequenceMatch on right answers, with a backspace", lambda bed: bed.labelled,
            objective="sequence_match", options={"backspace": _BACK}),
    Arm("sft with backspace", "supervised, half of the answers with a wrong letter and how it is taken back",
        _with_backspace, RATES),
)  # fmt: skip

_CUNDY = "Cundy and Ermon 2024 (SequenceMatch)"

CLAIMS = (
    LearningClaim(
        "sequence-match", "SequenceMatch beats likelihood", _CUNDY,
        ("sequence match", "sft"), target("sequence match", "sft"),
        better("SequenceMatch minus likelihood, equally many steps (target)"),
        "SequenceMatch also writes an answer to every prompt of a step",
    ),
    LearningClaim(
        "sequence-match-backspace", "SequenceMatch is more than the backspace in its answers", _CUNDY,
        ("sequence match", "sft with backspace"), target("sequence match", "sft with backspace"),
        better("SequenceMatch minus likelihood of answers with mistakes that are taken back (target)"),
    ),
)  # fmt: skip
