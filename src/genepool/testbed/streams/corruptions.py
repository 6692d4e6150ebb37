"""Ten ways to spoil an image of a digit, each with five severities that are harder one after another.

Numbers in, numbers out: images of 8 x 8 pixels from 0 (paper) to 1 (ink). What is drawn belongs to (seed, corruption,
image), never to the severity, so that a severity only does more of the same. Uses numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.seeding import numpy_generator
from genepool.tasks.models.digits import PIXELS, SIDE

Pixels = NDArray[np.float64]
_Draw = np.random.Generator

# By severity. Chosen so that a model of clean digits falls from above 80% to below 50%, most of the way at severity 3.
_NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)
_IMPULSE = (0.05, 0.1, 0.15, 0.2, 0.3)
_BLUR = (1, 2, 3, 4, 6)
_CONTRAST = (0.7, 0.5, 0.35, 0.25, 0.15)
_LIGHT = (0.1, 0.2, 0.3, 0.4, 0.5)
_DEGREES = (8.0, 16.0, 24.0, 32.0, 40.0)
_FOG = (0.25, 0.4, 0.55, 0.7, 0.8)
_SQUARE = (2, 3, 4, 5, 6)


def _noise(image: Pixels, level: int, draw: _Draw) -> Pixels:
    """Gaussian noise on every pixel."""
    return image + _NOISE[level] * draw.normal(size=image.shape)


def _impulse(image: Pixels, level: int, draw: _Draw) -> Pixels:
    """Pixels that become paper or ink; those of a severity are among those of the next."""
    chance, colour = draw.random(image.shape), draw.integers(0, 2, image.shape)
    found: Pixels = np.where(chance < _IMPULSE[level], colour, image)
    return found


def _blur(image: Pixels, level: int, draw: _Draw) -> Pixels:  # noqa: ARG001
    """The mean [1 2 1] / 4 over rows and columns, several times; beyond the edge lies paper."""
    for _ in range(_BLUR[level]):
        for axis in (0, 1):
            padded = np.pad(image, [(1, 1) if one == axis else (0, 0) for one in (0, 1)])
            before, after = (np.take(padded, range(at, at + SIDE), axis) for at in (0, 2))
            image = (before + 2 * image + after) / 4
    return image


def _contrast(image: Pixels, level: int, draw: _Draw) -> Pixels:  # noqa: ARG001
    """Nearer to the mean of the image."""
    found: Pixels = image.mean() + _CONTRAST[level] * (image - image.mean())
    return found


def _brighter(image: Pixels, level: int, draw: _Draw) -> Pixels:  # noqa: ARG001
    """Ink everywhere."""
    return image + _LIGHT[level]


def _darker(image: Pixels, level: int, draw: _Draw) -> Pixels:  # noqa: ARG001
    """Less ink everywhere."""
    return image - _LIGHT[level]


def _turn(image: Pixels, level: int, draw: _Draw) -> Pixels:
    """Turned about the middle, to the left or to the right."""
    angle = np.deg2rad(_DEGREES[level] * (1 if draw.random() < 0.5 else -1))
    middle = (SIDE - 1) / 2
    rows, columns = np.mgrid[:SIDE, :SIDE] - middle
    # Where each pixel comes from.
    row = np.cos(angle) * rows - np.sin(angle) * columns + middle
    column = np.sin(angle) * rows + np.cos(angle) * columns + middle
    return _between(np.pad(image, 1), row + 1, column + 1)


def _fog(image: Pixels, level: int, draw: _Draw) -> Pixels:
    """A smooth random field in front."""
    coarse = draw.random((4, 4))
    at = np.linspace(0, 3, SIDE)
    field = _between(coarse, *np.meshgrid(at, at, indexing="ij"))
    return (1 - _FOG[level]) * image + _FOG[level] * field


def _pixelate(image: Pixels, level: int, draw: _Draw) -> Pixels:  # noqa: ARG001
    """Blocks of 2 x 2, then of 4 x 4: each severity loses what the one before it lost, and more."""
    small, large = _blocks(image, 2), _blocks(image, 4)
    share = (0.5, 1.0, 0.33, 0.66, 1.0)[level]
    return (1 - share) * image + share * small if level < 2 else (1 - share) * small + share * large


def _occlude(image: Pixels, level: int, draw: _Draw) -> Pixels:
    """A square of ink; that of a severity lies within that of the next."""
    size = _SQUARE[level]
    row, column = (int(one) for one in draw.integers(0, SIDE - _SQUARE[-1] + 1, 2))
    found = image.copy()
    # All squares have the middle of the largest one as near as their sizes allow.
    start = (_SQUARE[-1] - size) // 2
    found[row + start : row + start + size, column + start : column + start + size] = 1.0
    return found


CORRUPTIONS: dict[str, Callable[[Pixels, int, Any], Pixels]] = {
    "noise": _noise,
    "impulse": _impulse,
    "blur": _blur,
    "contrast": _contrast,
    "brighter": _brighter,
    "darker": _darker,
    "turn": _turn,
    "fog": _fog,
    "pixelate": _pixelate,
    "occlude": _occlude,
}


def corrupted(pixels: Pixels, name: str, severity: int, seed: int, number: int) -> Pixels:
    """One spoilt image.

    Args:
        pixels: shape (64,), from 0 to 1.
        name: of the corruption.
        severity: from 1 to 5.
        seed: of the draws.
        number: of the image.

    Returns:
        Shape (64,), from 0 to 1, rounded to three decimals.
    """
    draw = numpy_generator(seed, "corruption", name, number)
    found = CORRUPTIONS[name](pixels.reshape(SIDE, SIDE), severity - 1, draw)
    rounded: Pixels = np.round(found.clip(0, 1), 3).reshape(PIXELS)
    return rounded


def _blocks(image: Pixels, size: int) -> Pixels:
    """The mean of each block in all of its pixels."""
    count = SIDE // size
    means = image.reshape(count, size, count, size).mean((1, 3))
    found: Pixels = means.repeat(size, 0).repeat(size, 1)
    return found


def _between(image: Pixels, row: Pixels, column: Pixels) -> Pixels:
    """Values between the pixels of an image, bilinear; the nearest edge beyond it."""
    row, column = row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)
    top, left = (np.minimum(one.astype(int), image.shape[axis] - 2) for axis, one in enumerate((row, column)))
    down, right = row - top, column - left
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    found: Pixels = upper * (1 - down) + lower * down
    return found
