"""WaveFT: a few entries of the change's wavelet transform (arXiv:2505.12532)."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.places import drawn_places
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    BIAS,
    COMMON,
    START,
    TARGETING,
    TRANSPOSED,
    AdapterSettings,
    declared,
    read,
    unused,
)

if TYPE_CHECKING:
    import torch

# Daubechies' filters are computed from their polynomial; beyond ten its roots are no longer exact in double precision.
_ORDERS = 10


class WaveFT(Kind):
    """`scaling * IDWT2(C)`; the places of the transform's entries are drawn from the seed, as PEFT draws them."""

    peft_type = "WAVEFT"
    title = "WaveFT"
    source = "arXiv:2505.12532"
    prefix = "waveft_"
    parts = ("waveft_spectrum",)
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "n_frequency": unused("the shapes in the file tell it"),
            "n_frequency_pattern": unused("the shapes in the file tell it"),
            "proportional_parameters": unused("the shapes in the file tell it"),
            "scaling": read("scale"),
            "wavelet_family": read(f"db1 to db{_ORDERS}; others are refused"),
            "use_idwt": read("whether the entries are of the transform or of the change itself"),
            "random_loc_seed": read("the seed of the places"),
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        if settings.get("use_idwt") is not False:
            settings.choice("wavelet_family", [f"db{order}" for order in range(1, _ORDERS + 1)], "db1")

    def check(self, layer: Layer) -> None:
        found = layer.size("waveft_spectrum")
        count = min(found[0] if len(found) == 1 else 1, layer.out_features * layer.in_features)
        layer.expect("waveft_spectrum", (count,))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        values = layer.read("waveft_spectrum")
        places = drawn_places(layer, len(values))
        rows, columns = layer.out_features, layer.in_features
        scale = layer.settings.number("scaling", 25)
        if layer.settings.get("use_idwt") is False:
            plain = torch.zeros(rows * columns)
            plain[places] = values
            return plain.reshape(rows, columns) * scale
        order = int(layer.settings.choice("wavelet_family", [f"db{o}" for o in range(1, _ORDERS + 1)], "db1")[2:])
        # The transform is taken of a larger matrix, so that what its ends spoil is cut away.
        tall, wide = (size + 2 * (order - 1) + size % 2 for size in (rows, columns))
        coefficients = torch.zeros(tall, wide)
        top, left = (tall - rows) // 2, (wide - columns) // 2
        coefficients[top + places // columns, left + places % columns] = values
        # PEFT has the details of the rows to the right of the smooth part, and those of the columns below it.
        smooth, right, below, both = (half for part in coefficients.chunk(2) for half in part.chunk(2, 1))
        quarters = torch.cat((torch.cat((smooth, below), 1), torch.cat((right, both), 1)))
        whole = _along_columns(_along_columns(quarters, order).T, order).T
        top, left = (whole.shape[0] - rows) // 2, (whole.shape[1] - columns) // 2
        return whole[top : top + rows, left : left + columns] * scale


def _along_columns(coefficients: torch.Tensor, order: int) -> torch.Tensor:
    """One level of the inverse transform along axis 0: smooth coefficients above, details below."""
    import torch

    low = torch.tensor(_smooth_filter(order), dtype=torch.float32)
    high = low.flip(0) * torch.tensor([1.0, -1.0]).repeat(order)
    smooth, detail = coefficients.chunk(2)
    columns = coefficients.shape[1]

    def spread(half: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv_transpose1d(half.T.unsqueeze(1), taps.reshape(1, 1, -1), stride=2).squeeze(1).T

    whole = spread(smooth, low) + spread(detail, high)
    cut = 2 * order - 2
    kept = whole[cut : len(whole) - cut] if cut else whole
    assert kept.shape[1] == columns
    return kept


@cache
def _smooth_filter(order: int) -> tuple[float, ...]:
    """Daubechies' reconstruction filter with `order` vanishing moments (Ten Lectures on Wavelets, section 6.1)."""
    import numpy as np

    # |H|^2 is (1 - y)^N P(y) with y = sin^2(w / 2); each root y gives a pair z, 1/z, of which the smaller is taken.
    weights = [math.comb(order - 1 + k, k) for k in range(order)]
    taps = np.array([1.0 + 0j])
    for root in np.roots(weights[::-1]):
        half = 1 - 2 * root
        z = half + np.sqrt(half * half - 1 + 0j)
        taps = np.convolve(taps, [1, -(z if abs(z) < 1 else 1 / z)])
    for _ in range(order):
        taps = np.convolve(taps, [1, 1])
    real = taps.real
    return tuple(float(tap) for tap in real * math.sqrt(2) / real.sum())
