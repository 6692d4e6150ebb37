"""FourierFT: a few entries of the change's two-dimensional spectrum (arXiv:2405.03003)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.places import drawn_places
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRANSPOSED, declared, read, unused

if TYPE_CHECKING:
    import torch


class FourierFT(Kind):
    """`scaling * Re(IFFT2(F))`; the places of the spectrum's entries are drawn from the seed, as PEFT draws them."""

    peft_type = "FOURIERFT"
    title = "FourierFT"
    source = "arXiv:2405.03003"
    prefix = "fourierft_"
    parts = ("fourierft_spectrum",)
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "n_frequency": unused("the shapes in the file tell it"),
            "n_frequency_pattern": unused("the shapes in the file tell it"),
            "scaling": read("scale"),
            "random_loc_seed": read("the seed of the places"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("fourierft_spectrum")
        count = min(found[0] if len(found) == 1 else 1, layer.out_features * layer.in_features)
        layer.expect("fourierft_spectrum", (count,))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        values = layer.read("fourierft_spectrum")
        spectrum = torch.zeros(layer.out_features * layer.in_features)
        spectrum[drawn_places(layer, len(values))] = values
        change: torch.Tensor = torch.fft.ifft2(spectrum.reshape(layer.out_features, layer.in_features)).real
        return change * layer.settings.number("scaling", 150)
