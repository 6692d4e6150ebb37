"""CAMEL against MAML: systems of a kind are learned from several, and a new one from ten examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.adaptation.cells import Marks
from benchmarks.adaptation.trials.trial import Trial, TrialCell, TrialClaim, between, number
from benchmarks.claims.verdict import Figure, Rule
from genepool.adaptation.system_nets import AffineSystems, MetaLearned, through
from genepool.seeding import numpy_generator

CAMEL, MAML = "CAMEL", "MAML"
#: Systems that are learned from and held out; examples of each in the training, shown of a new one, and asked of it.
LEARNED, HELD_OUT, SHOWN, SHOTS, ASKED = 10, 20, 200, 10, 200
#: Hidden units of both, and the steps of their trainings: about as many as a tenth of MAML's seconds are enough for.
HIDDEN, CAMEL_STEPS, MAML_STEPS = 64, 500, 3000
#: The rates are the authors', as in the adapters.
CAMEL_RATE, RIDGE, MAML_RATE, MAML_STEP, INNER, FOLLOW = 5e-3, 1e-7, 1e-3, 0.01, 1, 10
#: R^2 of the parameters of systems that were held out, and the share of MAML's seconds, that are claimed.
IDENTIFIED, SHARE = 0.95, 0.1


@dataclass(frozen=True)
class Systems:
    """Examples of several systems.

    Attributes:
        inputs: shape (systems, examples, width).
        targets: shape (systems, examples, 1).
        parameters: of each system, shape (systems, parameters).
    """

    inputs: Marks
    targets: Marks
    parameters: Marks


def pendulum(draw: np.random.Generator, count: int, examples: int, _: int) -> Systems:
    """The torque that a pendulum needs: m l^2 a + m g l sin t, with the angle t and the acceleration a as inputs.

    The parameters are the two that it is linear in, m l^2 and m g l.
    """
    mass, length = (draw.uniform(0.5, 1.5, count) for _ in range(2))
    gravity = draw.uniform(5, 15, count)
    known = np.stack([mass * length**2, mass * gravity * length], 1)
    given = draw.uniform(-1, 1, (count, examples, 2))
    out = known[:, :1] * 10 * given[..., 1] + known[:, 1:] * np.sin(np.pi * given[..., 0])
    return Systems(given, out[..., None], known)


def made(draw: np.random.Generator, count: int, examples: int, seed: int) -> Systems:
    """sin(3 x) + the sum of three waves of the inputs, which a seed draws, each times a parameter."""
    waves = numpy_generator(seed, "waves of the made systems")
    slopes, shifts = waves.uniform(-3, 3, (2, 3)), waves.uniform(0, 2 * np.pi, 3)
    known = draw.uniform(0.5, 1.5, (count, 3))
    given = draw.uniform(-1, 1, (count, examples, 2))
    out = np.sin(3 * given[..., 0]) + (np.sin(given @ slopes + shifts) * known[:, None]).sum(-1)
    return Systems(given, out[..., None], known)


def not_affine(draw: np.random.Generator, count: int, examples: int, _: int) -> Systems:
    """a sin(k x + s) + b y: the parameters are a, k and b, and k stands within the wave, as does s."""
    strength, slope = draw.uniform(0.5, 1.5, (2, count))
    pace, shift = draw.uniform(1, 5, count), draw.uniform(0, 2 * np.pi, count)
    given = draw.uniform(-1, 1, (count, examples, 2))
    wave = np.sin(pace[:, None] * given[..., 0] + shift[:, None])
    out = strength[:, None] * wave + slope[:, None] * given[..., 1]
    return Systems(given, out[..., None], np.stack([strength, pace, slope], 1))


#: Kind -> its systems, and the numbers that CAMEL may know a system by: as many as it is linear in.
KINDS: Mapping[str, tuple[Callable[..., Systems], int]] = {
    "pendulum": (pendulum, 2), "made": (made, 3), "not affine": (not_affine, 3),
}  # fmt: skip
R2, TRAINING, FOLLOWING = "R^2", "seconds of training", "seconds of a new system"


def measured(seed: int) -> TrialCell:
    """Errors on systems that were held out, of both, on every kind; R^2 of their parameters; seconds."""
    # The first optimiser of a process loads much of torch, which is nobody's time.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    values: dict[tuple[str, str], Marks] = {}
    seconds: dict[tuple[str, str], float] = {}
    for kind in KINDS:
        learned, held_out = systems_of_kind(kind, seed)
        found = {CAMEL: _camel(learned, held_out, KINDS[kind][1], seed), MAML: _maml(learned, held_out, seed)}
        for arm, (errors, times, r2) in found.items():
            values[arm, kind] = errors
            if r2 is not None:
                values[arm, f"{R2}, {kind}"] = np.array([r2])
            for what, spent in zip((TRAINING, FOLLOWING), times, strict=True):
                seconds[arm, what] = seconds.get((arm, what), 0.0) + spent / len(KINDS)
    return TrialCell({**values, **{key: np.array([one]) for key, one in seconds.items()}})


def systems_of_kind(kind: str, seed: int) -> tuple[Systems, Systems]:
    """Systems to learn from and others, whose targets are in units of the spread of the first."""
    make, _ = KINDS[kind]
    drawn = [
        make(numpy_generator(seed, kind, which), count, examples, seed)
        for which, count, examples in (("learned", LEARNED, SHOWN), ("held out", HELD_OUT, SHOTS + ASKED))
    ]
    spread = drawn[0].targets.std()
    return tuple(Systems(one.inputs, one.targets / spread, one.parameters) for one in drawn)  # type: ignore[return-value]


_Found = tuple[Marks, tuple[float, float], float | None]


def _camel(learned: Systems, held_out: Systems, factors: int, seed: int) -> _Found:
    model = AffineSystems(factors, HIDDEN, seed)
    began = time.process_time()
    model.train(*_rows(learned), CAMEL_STEPS, CAMEL_RATE)
    trained = time.process_time()
    weights = [model.weights(*shots, RIDGE) for shots, _ in _split(held_out)]
    ended = time.process_time()
    asked = [part for _, part in _split(held_out)]
    errors = [_error(model.predict(given, w), wanted) for w, (given, wanted) in zip(weights, asked, strict=True)]
    known = np.stack([one.double().numpy() for one in weights])
    r2 = identified(model.known.double().numpy(), learned.parameters, known, held_out.parameters)
    return np.array(errors), (trained - began, (ended - trained) / HELD_OUT), r2


def _maml(learned: Systems, held_out: Systems, seed: int) -> _Found:
    model = MetaLearned(HIDDEN, MAML_STEP, seed)
    began = time.process_time()
    model.train(*_rows(learned), MAML_STEPS, MAML_RATE, INNER)
    trained = time.process_time()
    nets = [model.adapted(*shots, FOLLOW) for shots, _ in _split(held_out)]
    ended = time.process_time()
    asked = [part for _, part in _split(held_out)]
    errors = [_error(through(net, given), wanted) for net, (given, wanted) in zip(nets, asked, strict=True)]
    return np.array(errors), (trained - began, (ended - trained) / HELD_OUT), None


def identified(learned: Marks, parameters: Marks, held_out: Marks, theirs: Marks) -> float:
    """R^2 of the parameters of systems that were held out, the mean over the parameters.

    An affine map from weights to parameters is fitted by least squares on the systems that were learned from.

    Args:
        learned: weights of these systems, shape (systems, factors).
        parameters: theirs, shape (systems, parameters).
        held_out: weights of the others.
        theirs: parameters of the others.
    """
    mapped, *_ = np.linalg.lstsq(_with_one(learned), parameters, rcond=None)
    left = (theirs - _with_one(held_out) @ mapped) ** 2
    return float((1 - left.sum(0) / ((theirs - theirs.mean(0)) ** 2).sum(0)).mean())


def _with_one(rows: Marks) -> Marks:
    return np.hstack([rows, np.ones((len(rows), 1))])


def _rows(systems: Systems) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All examples as rows, with the number of the system of each."""
    both = (torch.tensor(one).float().flatten(0, 1) for one in (systems.inputs, systems.targets))
    count, examples = systems.inputs.shape[:2]
    return (*both, torch.arange(count).repeat_interleave(examples))  # type: ignore[return-value]


def _split(systems: Systems) -> list[Any]:
    """Of each system what is shown and what is asked, inputs and targets each."""
    pairs = zip(torch.tensor(systems.inputs).float(), torch.tensor(systems.targets).float(), strict=True)
    return [((given[:SHOTS], out[:SHOTS]), (given[SHOTS:], out[SHOTS:])) for given, out in pairs]


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean())


def _errors(kind: str) -> Callable[[TrialCell], Any]:
    return lambda cell: between(cell.values[CAMEL, kind], cell.values[MAML, kind])


def _identified(kind: str) -> Callable[[TrialCell], Any]:
    return lambda cell: number(cell.mean(CAMEL, f"{R2}, {kind}"), IDENTIFIED)


def _seconds(cell: TrialCell) -> Any:
    ours, theirs = (cell.mean(arm, TRAINING) + HELD_OUT * cell.mean(arm, FOLLOWING) for arm in (CAMEL, MAML))
    return number(ours, SHARE * theirs)


def _holds(figures: Mapping[str, Figure]) -> bool:
    affine = all(figures[name].hi < 0 for name in ("main", "made", "seconds"))
    told = all(figures[name].lo > 0 for name in ("R^2", "R^2 made"))
    return affine and told and not figures["not affine"].hi < 0 and not figures["R^2 not affine"].lo > 0


CLAIM = TrialClaim(
    "camel", "CAMEL adapts better than MAML at a tenth of its time, and its weights tell the parameters of a system",
    "Blanke and Lelarge 2024",
    {
        "main": _errors("pendulum"), "made": _errors("made"), "seconds": _seconds, "R^2": _identified("pendulum"),
        "R^2 made": _identified("made"), "not affine": _errors("not affine"),
        "R^2 not affine": _identified("not affine"),
    },
    Rule(
        "the interval of its error after k shots minus MAML's is below 0 at a tenth of its seconds; R^2 of held-out "
        "parameters is above 0.95; neither holds on a system that is not affine. Seconds are those of the training and "
        "of all new systems together, the interval of CAMEL's minus a tenth of MAML's is below 0; the interval of "
        "R^2 minus 0.95 is above 0; both kinds of affine systems must have both",
        _holds, wants_more=False,
    ),
    "seconds and R^2 are told less a tenth of MAML's and less 0.95; MAML's mean error is made by few of the seeds",
)  # fmt: skip

TRIAL = Trial(
    "new systems",
    f"Systems of a kind: {LEARNED} with {SHOWN} examples each are learned from, and of each of {HELD_OUT} others "
    f"{SHOTS} examples are shown. What counts is the squared error on {ASKED} other examples of these, in units of the "
    "variance of the targets. *Pendulum* is the torque m l^2 a + m g l sin t, which is linear in the two parameters "
    "m l^2 and m g l; *made* is linear in three parameters; *not affine* has the frequency of a wave among its "
    f"parameters. Both have a net of {HIDDEN} hidden units; the time that is claimed is a budget, so CAMEL has "
    f"{CAMEL_STEPS} steps "
    f"of training and MAML {MAML_STEPS}. CAMEL is told how many parameters there are: {KINDS['pendulum'][1]} of the "
    f"pendulum, {KINDS['made'][1]} of the others. R^2 is that of the parameters, by an affine map from CAMEL's weights "
    "that is fitted to the systems that were learned from. The seeds draw all systems and examples. This is the second "
    f"measurement of CAMEL: in the first it had {MAML_STEPS} steps too, and took half of MAML's seconds.",
    (CAMEL, MAML), (*KINDS, *(f"{R2}, {kind}" for kind in KINDS), TRAINING, FOLLOWING), measured, CLAIM, places=4,
)  # fmt: skip
