"""Gain control where contexts are switched: gains alone against a dictionary that is trained anew for each context."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from benchmarks.adaptation.cells import Marks
from benchmarks.adaptation.trials.trial import Trial, TrialCell, TrialClaim, between, number
from benchmarks.claims.verdict import Figure, Rule
from genepool.adaptation.adapters.gain_control import GainControlOptions
from genepool.adaptation.gains import FollowingGains, GainCosts, code_costs, codes_of, gains_of, moments_of
from genepool.seeding import numpy_generator
from genepool.tasks.models.digits import SIDE, WHITE
from genepool.testbed.digits.images import load_images
from genepool.testbed.streams.corruptions import CORRUPTIONS, corrupted
from genepool.testbed.streams.stream_folder import SEVERITY

LENGTH, COUNT = "code length", "parameters"
FIRST, GAINS, FITTED, FULL = "as on the source", "gains alone", "gains fitted to each context", "full retraining"
#: Pixels of a patch's side, atoms of the dictionary, images of a batch.
PATCH, ATOMS, BATCH = 6, 16, 64
#: Images of the source and those that gains and retraining see of a context; all others are scored.
SOURCE, SEEN = 900, 448
#: Turns of the full retraining.
TURNS = 50
#: What gains must recover of the drop, and with which share of the parameters.
RECOVERED, SHARE = 0.8, 0.05


def measured(seed: int) -> TrialCell:
    """The code length of images that were not seen, the mean over all contexts, one number an image."""
    images = _images()[numpy_generator(seed, "images of the contexts").permutation(len(_images()))]
    mean = patches(images[:SOURCE]).mean(0)
    options = GainControlOptions()
    costs = GainCosts(options.cost, options.anchor, options.decay, options.steps)
    following = FollowingGains(patches(images[:SOURCE]) - mean, ATOMS, costs)
    start, rest = following.dictionary, following.rest
    lengths: dict[str, list[Marks]] = {FIRST: [], GAINS: [], FITTED: [], FULL: []}
    names = list(CORRUPTIONS)
    for at in numpy_generator(seed, "order of the contexts").permutation(len(names)):
        spoilt = np.stack([corrupted(one, names[at], SEVERITY, seed, n) for n, one in enumerate(images[SOURCE:])])
        seen, asked = (patches(part) - mean for part in (spoilt[:SEEN], spoilt[SEEN:]))
        # The gains go on from where the last context left them, and pass every image once.
        each = (SIDE - PATCH + 1) ** 2
        for begin in range(0, len(seen), each * BATCH):
            following.follow(seen[begin : begin + each * BATCH])
        anew = retrained(seen, start, rest, following.first, costs)
        fitted = retrained(seen, start, rest, following.first, costs, atoms=False)
        for arm, (dictionary, gains) in {
            FIRST: (start, rest), GAINS: (start, following.gains), FITTED: fitted, FULL: anew,
        }.items():  # fmt: skip
            lengths[arm].append(code_length(asked, dictionary, gains, following.first, costs).reshape(-1, each).mean(1))
    values = {(arm, LENGTH): np.mean(found, axis=0) for arm, found in lengths.items()}
    counts = {FIRST: 0, GAINS: len(rest), FITTED: len(rest), FULL: start.numel() + len(rest)}
    return TrialCell({**values, **{(arm, COUNT): np.array([float(one)]) for arm, one in counts.items()}})


def _images() -> Marks:
    """All digits, shape (n, 64), from 0 to 1, split by split."""
    return np.array([row for split in load_images().values() for row in split.pixels], dtype=np.float64) / WHITE


def patches(images: Marks) -> torch.Tensor:
    """All patches of images, shape (n * places, pixels), image by image, float64."""
    whole = torch.tensor(images).view(-1, SIDE, SIDE)
    cut = whole.unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    return cut.reshape(-1, PATCH * PATCH)


def code_length(
    images: torch.Tensor, dictionary: torch.Tensor, gains: torch.Tensor, first: torch.Tensor, costs: GainCosts
) -> Marks:
    """||s - D (g r)||^2 + a ||r||^2 + c ||g - g0||^2 of each patch, with its best codes."""
    codes = codes_of(images, dictionary, gains, costs.code)
    held = costs.anchor * (gains - first).square().sum()
    found: Marks = (code_costs(images, dictionary, codes, gains, costs.code) + held).numpy()
    return found


def retrained(
    images: torch.Tensor,
    dictionary: torch.Tensor,
    gains: torch.Tensor,
    first: torch.Tensor,
    costs: GainCosts,
    *,
    atoms: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dictionary and gains that write a context down shortest, from where they were: codes, gains and atoms in turns.

    An atom has length 1, or it would grow to make its codes short. It is moved to its best place, the others as they
    are, so no turn makes the mean code length larger. Without `atoms` the dictionary stays.
    """
    dictionary = dictionary.clone()
    for _ in range(TURNS):
        codes = codes_of(images, dictionary, gains, costs.code)
        gains = gains_of(moments_of(images, dictionary, codes), first, costs.anchor)
        strengths = codes * gains
        left = images - strengths @ dictionary.T
        for at in range(dictionary.shape[1] if atoms else 0):
            own = strengths[:, at]
            wanted = left.T @ own + dictionary[:, at] * own.square().sum()
            moved = wanted / wanted.norm().clamp_min(1e-12)
            left = left + torch.outer(own, dictionary[:, at] - moved)
            dictionary[:, at] = moved
    return dictionary, gains


def _recovered(cell: TrialCell) -> object:
    before, gains, full = (cell.values[arm, LENGTH] for arm in (FIRST, GAINS, FULL))
    return between(before - gains, RECOVERED * (before - full))


def _holds(figures: Mapping[str, Figure]) -> bool:
    return figures["main"].lo > 0 and figures["parameters"].hi < 0


CLAIM = TrialClaim(
    "gain-control", "Where contexts are switched, gains alone recover most of what retraining gains", "as remembered",
    {
        "main": _recovered,  # type: ignore[dict-item]
        "full": lambda cell: between(cell.values[FIRST, LENGTH], cell.values[FULL, LENGTH]),
        "parameters": lambda cell: number(cell.mean(GAINS, COUNT), SHARE * cell.mean(FULL, COUNT)),
    },
    Rule(
        "the interval of the drop in code length by gains alone minus 0.8 of that by full retraining is above 0, with "
        "less than 5% of the parameters, on patches of digits",
        _holds,
    ),
    "from 0.8 of the drop by full retraining to the drop by gains; parameters less 5% of those of retraining",
)  # fmt: skip

TRIAL = Trial(
    "switched contexts",
    f"Patches of {PATCH} x {PATCH} pixels of digits, written by {ATOMS} principal directions of {SOURCE} images. The "
    f"contexts are the ten corruptions of severity {SEVERITY}, one after another in the order of a seed; of each "
    f"{SEEN} images pass once in batches of {BATCH}, and the gains go on from the last context. Half of the moments "
    "that they follow are still those of older contexts then, so *gains fitted to each context* have only its images, "
    f"in {TURNS} turns. *Full retraining* fits dictionary and gains to the same images in {TURNS} turns. What counts "
    "is the mean code length of all other images over the contexts: the squared error, with what codes and gains cost.",
    (FIRST, GAINS, FITTED, FULL), (LENGTH, COUNT), measured, CLAIM, places=4, same_examples=True,
)  # fmt: skip
