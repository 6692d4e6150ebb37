"""How large the testbed's models are and how long they train: every number of a build, in one place.

Plain data that `builder` hashes into the manifest: changing a number here makes earlier builds stale by itself.
All were found by training on several seeds until every specialist passed its bar with room to spare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from genepool.testbed.data import Lengths


@dataclass(frozen=True)
class Phase:
    """One training run: AdamW with (0.9, 0.98), a linear warm-up and a linear fall to 5% of the learning rate.

    Attributes:
        steps: optimizer steps. batch: examples a step. warmup: steps. replay: share of pre-training examples.
        shards: parts of a batch whose gradients are computed side by side, one thread each, and then added.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 0
    replay: float = 0.0
    shards: int = 1


@dataclass(frozen=True)
class Schedule:
    """The whole of a build, apart from skills and seed."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    lengths: Lengths
    base: Phase
    full: Phase
    lora: Phase
    lora_rank: int = 8
    lora_alpha: int = 16
    context: int = 64


REGIMES = ("elicit", "acquire")


def schedule_for(regime: str, *, tiny: bool, skills: int) -> Schedule:
    """The schedule of one of the `REGIMES` for a number of skills."""
    elicit = regime == "elicit"
    # Each skill beyond four takes its share of the batches; the base is given as many steps again.
    room = max(1.0, (2 + skills) / 6) if elicit else 1.0
    if tiny:
        return Schedule(
            hidden=64,
            layers=2,
            heads=4,
            feed_forward=176,
            lengths=Lengths(4, 5),
            base=Phase(round(450 * room) if elicit else 300, 96, 6e-3, warmup=30),
            full=Phase(40, 48, 6e-4, replay=0.3) if elicit else Phase(160, 48, 3e-3, warmup=10),
            lora=Phase(50, 48, 4e-3, replay=0.3) if elicit else Phase(160, 48, 1e-2, warmup=10),
        )
    return Schedule(
        hidden=128,
        layers=4,
        heads=4,
        feed_forward=352,
        lengths=Lengths(4, 6),
        base=Phase(round(1150 * room) if elicit else 400, 96, 3e-3, warmup=50, shards=2),
        full=Phase(40, 64, 3e-4, replay=0.3) if elicit else Phase(220, 64, 1.5e-3, warmup=10),
        lora=Phase(50, 64, 2e-3, replay=0.3) if elicit else Phase(280, 64, 5e-3, warmup=10),
    )


def small_schedule_for(regime: str, *, tiny: bool, skills: int) -> Schedule:
    """The schedule of a smaller model, with the same inputs, steps and batches.

    It has half the width and depth. The tiny one has three quarters of the width instead: at half, its specialists
    reach .04 on `reverse` and .09 on `sort`, and steer towards nothing.
    """
    large = schedule_for(regime, tiny=tiny, skills=skills)
    if tiny:
        return replace(large, hidden=48, feed_forward=132)
    # A model of half the width takes steps of twice the length.
    base = replace(large.base, learning_rate=2 * large.base.learning_rate)
    full = replace(large.full, learning_rate=2 * large.full.learning_rate)
    return replace(large, hidden=64, layers=2, feed_forward=176, base=base, full=full)


def untagged_schedule_for(*, tiny: bool, skills: int) -> Schedule:
    """The schedule of models whose prompts hold worked examples instead of a tag."""
    tagged = schedule_for("elicit", tiny=tiny, skills=skills)
    # A layer to hold each example's output against its input, one to carry that to the end, and one to apply it: with
    # two layers only `upper` is recognised.
    if tiny:
        base = replace(tagged.base, steps=round(1000 * tagged.base.steps / 450), batch=64, learning_rate=4e-3)
        return replace(tagged, layers=4, lengths=Lengths(4, 4), base=base)
    return replace(tagged, lengths=Lengths(4, 5), base=replace(tagged.base, steps=2 * tagged.base.steps))


def pairs_schedule_for(*, tiny: bool, skills: int) -> Schedule:
    """The schedule of models whose base learns pairs of skills too."""
    tagged = schedule_for("elicit", tiny=tiny, skills=skills)
    return replace(tagged, base=replace(tagged.base, steps=round(1.5 * tagged.base.steps)))
