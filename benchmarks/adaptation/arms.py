"""What is measured: the beds, and every adapter with its settings, which are its defaults unless something is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEEDS = 5
#: Rounds of a run, and those whose marks are kept: one round hides a collapse.
ROUNDS = 15
KEPT = (1, 3, ROUNDS)
#: Rounds of a stream that is taken whole.
SHORT = 3
#: Of the digits of the other streams, one in so many is taken: the whole of it would take hours.
EVERY = 8
#: Labels come so many batches late, where an adapter learns from them.
LATE = 1
#: Changed images that CoTTA's teacher averages here, where the authors take 32: eight times as many cost so much more.
COTTA_IMAGES = 4
#: Fixed rates that the homeostatic rate is held against, and its own base rate, which is ours.
FIXED_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
HOMEOSTATIC_RATE = 3e-4
#: Learning rate of test-time self-improvement, ours: the authors' 1e-4 moves so small a model by nothing.
SELF_RATE = 1e-2


@dataclass(frozen=True)
class StreamBed:
    """One stream and its model.

    Attributes:
        name: in tables and on the command line.
        words: what it is, for the page.
        kind: of testbed.
        stream: its folder in it; what `measured` makes of it otherwise is said by `swaps`.
        every: one in so many of its examples is taken.
        rounds: how often it is gone through.
        kept: the rounds whose marks are kept.
        swaps: the clean digits, whose labels are exchanged in pairs in every second pass.
        images: whether it holds images.
        features: whether its model has a last linear layer of its classes.
        linear: whether its model has other linear layers.
    """

    name: str
    words: str
    kind: str
    stream: str
    every: int = EVERY
    rounds: int = ROUNDS
    kept: tuple[int, ...] = KEPT
    swaps: bool = False
    images: bool = True
    features: bool = True
    linear: bool = True

    @property
    def same_examples(self) -> bool:
        """Whether seeds share examples: there are fewer shares than seeds."""
        return self.every < SEEDS


BEDS = {
    bed.name: bed
    for bed in (
        StreamBed("mixed", "digits under ten corruptions of severity 3, in mixed order", "streams", "mixed"),
        StreamBed("correlated", "the same, whose labels come in runs", "streams", "correlated", every=1,
                  rounds=SHORT, kept=(1, SHORT)),
        StreamBed(
            "label_shift",
            "noisy digits whose classes are long-tailed 10:1, first the low ones common and then the high ones",
            "streams", "label_shift", every=1,
        ),
        StreamBed(
            "open", "as mixed; the base was never shown 7, 8 and 9, and only the others are scored",
            "streams_open", "mixed",
        ),
        StreamBed("conv", "as mixed, for a ResNet with batch norms", "streams_conv", "mixed", linear=False),
        StreamBed(
            "text", "strings under eight drifts of severity 3, in mixed order, for a language model that tells whose "
            "syllables they have", "streams_text", "mixed", every=1, images=False, features=False,
        ),
        StreamBed(
            "swaps", "clean digits; in every second pass 0 and 1, 2 and 3, and so on exchange their labels, which come "
            f"{LATE} batch late", "streams", "clean", every=2, kept=tuple(range(1, ROUNDS + 1)), swaps=True,
        ),
        StreamBed(
            "half_known", "strings that the language model was told the right syllables of in 10% to 90% of the "
            "examples, by class", "streams_text", "half_known", every=1, rounds=1, kept=(1,),
            images=False, features=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class StreamArm:
    """One adapter with its settings.

    Attributes:
        name: in tables and on the command line.
        words: what it is, for the page.
        adapter: its name.
        options: of the adapter, where they are not its defaults.
        only: the one bed it is for; all that suit it when empty.
        shuffled: learns at the rates of the homeostatic arm in another order.
    """

    name: str
    words: str
    adapter: str
    options: Mapping[str, Any] = field(default_factory=dict)
    only: str = ""
    shuffled: bool = False


#: The seven most used, which have all seeds where they are compared.
SEVEN = ("tent", "eata", "sar", "lame", "cotta", "roid", "rmt")
_LESSONS = {"ask": "~{prompt}", "rate": SELF_RATE}

ARMS = (
    StreamArm("frozen", "doing nothing", "frozen"),
    StreamArm("diversity", "TENT with the diversity term", "diversity"),
    StreamArm("tent", "TENT", "tent"),
    StreamArm("eata", "EATA", "eata"),
    StreamArm("sar", "SAR", "sar"),
    StreamArm("lame", "LAME", "lame"),
    StreamArm("cotta", f"CoTTA, its teacher over {COTTA_IMAGES} images", "cotta", {"augmentations": COTTA_IMAGES}),
    StreamArm("roid", "ROID", "roid"),
    StreamArm("rmt", "RMT", "rmt"),
    StreamArm("rmt, no source", "RMT without the cross-entropy on source examples", "rmt", {"replay": 0.0}),
    StreamArm("wisdom", "wisdom of crowds", "wisdom"),
    StreamArm("psmt", "parameter-selective mean teacher", "psmt"),
    StreamArm("label_shift", "label shift adapter", "label_shift"),
    StreamArm("modulation_pool", "modulation pool", "modulation_pool"),
    StreamArm("gain_control", "gain control", "gain_control"),
    StreamArm("online", "learning from labels that come late", "online"),
    StreamArm("homeostatic", "homeostatic rate", "homeostatic"),
    *(
        StreamArm(f"fixed {rate:g}", f"learning from late labels at the rate {rate:g}", "online", {"rate": rate},
                  only="swaps")
        for rate in FIXED_RATES
    ),
    StreamArm("need", f"homeostatic rate from {HOMEOSTATIC_RATE:g} on", "homeostatic", {"rate": HOMEOSTATIC_RATE},
              only="swaps"),
    StreamArm("need, shuffled", "the same rates in another order", "online", only="swaps", shuffled=True),
    *(
        StreamArm(f"tt_si, {select}", f"test-time self-improvement on {select} items", "tt_si",
                  {**_LESSONS, "select": select}, only="half_known")
        for select in ("uncertain", "random", "certain")
    ),
)  # fmt: skip
