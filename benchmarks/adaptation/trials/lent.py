"""Noise, other images or nothing as the source of heterogeneous adaptation: pixels lent to principal components."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from benchmarks.adaptation.cells import Marks
from benchmarks.adaptation.trials.trial import Trial, TrialCell, TrialClaim, between
from benchmarks.claims.verdict import Figure, Rule
from genepool.adaptation.adapters.heterogeneous import HeterogeneousOptions
from genepool.adaptation.shared_space import SeenExamples, SharedSpace, SpaceTraining, noise_like
from genepool.seeding import numpy_generator
from genepool.tasks.models.digits import CLASSES, WHITE
from genepool.testbed.digits.images import load_images

RIGHT = "accuracy"
REAL, NOISE, NONE = "a real source", "noise", "no source"
#: Images that are lent, those that labels are drawn from, and those that are asked without a label: all others.
LENT, LABELLED = 800, 300
#: Principal components, labels of a class, and how often labels are drawn with a seed.
COMPONENTS, SHOTS, DRAWS = 32, 3, 3
POINT = 0.01


def measured(seed: int) -> TrialCell:
    """How often each image that was asked is told right, over the draws of the labels, with each source."""
    pixels, digits = _images()
    drawn = numpy_generator(seed, "images that are lent").permutation(len(digits))
    pixels, digits = pixels[drawn], digits[drawn]
    rows = {name: torch.tensor(part).float() for name, part in
            (("lent", pixels[:LENT]), ("other", components(pixels[LENT:], COMPONENTS)))}  # fmt: skip
    classes = torch.tensor(digits)
    options = HeterogeneousOptions()
    how = SpaceTraining(options.width, options.source_weight, options.distance, options.steps, options.rate)
    lent = {REAL: rows["lent"], NONE: rows["lent"]}
    right: dict[str, list[Marks]] = {REAL: [], NOISE: [], NONE: []}
    for draw in range(DRAWS):
        chosen = few_of_each(digits[LENT : LENT + LABELLED], numpy_generator(seed, "labels", draw))
        asked, wanted = rows["other"][LABELLED:], classes[LENT + LABELLED :]
        seen = SeenExamples(rows["other"][chosen], classes[LENT:][chosen], asked)
        own = 1000 * seed + draw
        lent[NOISE] = noise_like(classes[:LENT], CLASSES, pixels.shape[1], own)
        for arm, found in right.items():
            space = SharedSpace()
            space.train(seen, lent[arm], classes[:LENT], CLASSES, how, own, lends=arm != NONE)
            answers = space.classified(space.shared("stream", asked)).argmax(-1)
            found.append((answers == wanted).double().numpy())
    return TrialCell({(arm, RIGHT): np.mean(found, axis=0) for arm, found in right.items()})


def _images() -> tuple[Marks, Marks]:
    """All digits, shape (n, 64), from 0 to 1, and what they show."""
    splits = load_images().values()
    pixels = np.array([row for split in splits for row in split.pixels], dtype=np.float64) / WHITE
    return pixels, np.array([digit for split in splits for digit in split.digits])


def components(images: Marks, count: int) -> Marks:
    """The first principal components of images, in units of the spread of the first one, shape (n, count)."""
    centred = images - images.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    found: Marks = centred @ directions[:count].T
    return found / found[:, 0].std()


def few_of_each(digits: Marks, draw: np.random.Generator) -> Marks:
    """Places of as many images of each class, drawn without replacement."""
    return np.concatenate([draw.choice(np.flatnonzero(digits == one), SHOTS, replace=False) for one in range(CLASSES)])


def _holds(figures: Mapping[str, Figure]) -> bool:
    near = figures["real"]
    return figures["main"].lo > 0 and near.lo > -POINT and near.hi < POINT


CLAIM = TrialClaim(
    "noise-source", "Noise serves as a source of heterogeneous domain adaptation", "Yao et al. 2025",
    {
        "main": lambda cell: between(cell.values[NOISE, RIGHT], cell.values[NONE, RIGHT]),
        "real": lambda cell: between(cell.values[REAL, RIGHT], cell.values[NOISE, RIGHT]),
    },
    Rule(
        "the interval of noise minus no source is above 0, and the interval of a real source minus noise is between "
        f"-{POINT} and {POINT}, on pixels against principal components with three labels a class",
        _holds,
    ),
)  # fmt: skip

TRIAL = Trial(
    "lent examples",
    f"Digits as {COMPONENTS} principal components, {SHOTS} labels of each class, and all other images without a label. "
    f"*A real source* lends the pixels of {LENT} other images with their labels, *noise* a point for each "
    f"class with noise about it, and *no source* nothing. Labels are drawn {DRAWS} times with each seed.",
    (REAL, NOISE, NONE), (RIGHT,), measured, CLAIM, same_examples=True,
)  # fmt: skip
