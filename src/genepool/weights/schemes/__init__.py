"""Ways in which checkpoints are quantised, one file each beside this one; a scheme is found by being there.

Asked by `dequantised` for how a checkpoint is read. Schemes that are not read are named here, with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from genepool.folder_classes import classes_of
from genepool.weights.schemes.scheme import Scheme

__all__ = ["UNREAD", "Scheme", "scheme_of", "schemes"]

# `quant_method` -> what it is called, and why its numbers are not read here.
UNREAD: Final[Mapping[str, tuple[str, str]]] = {
    "aqlm": ("AQLM", "its codes name entries of learned codebooks, which only its library decodes"),
    "bitnet": ("BitNet", "its layers also quantise what goes into them, so no float checkpoint computes the same"),
    "eetq": ("EETQ", "its codes lie in the order of its CUDA kernels"),
    "fouroversix": ("Four Over Six", "its codes lie in the order of its CUDA kernels"),
    "fp_quant": ("FP-Quant", "its weights are rotated, and its kernels rotate what goes into them"),
    "gemma": ("Gemma's own quantisation", "its layers also quantise what goes into them"),
    "higgs": ("HIGGS", "its weights are rotated, and its codes name entries of a grid"),
    "hqq": ("HQQ", "its files keep the state of its own layers"),
    "metal": ("Metal", "its codes lie in the order of its kernels"),
    "modelopt": ("NVIDIA ModelOpt", "its scales are those of TensorRT's kernels"),
    "nvfp4": ("NVFP4", "its scales are those of NVIDIA's kernels; compressed-tensors' form of it is read"),
    "quanto": ("Quanto", "its files keep the state of its own tensors"),
    "quark": ("Quark", "its files keep the state of its own layers"),
    "sinq": ("SINQ", "its files keep the state of its own layers"),
    "spqr": ("SpQR", "its outliers lie beside its codes in the order of its CUDA kernels"),
    "torchao": ("torchao", "its files keep the state of its own tensors"),
    "vptq": ("VPTQ", "its codes name entries of learned codebooks, which only its library decodes"),
}


@cache
def schemes() -> tuple[type[Scheme], ...]:
    """Every scheme that is read, by title."""
    return tuple(sorted(classes_of(__name__, Scheme), key=lambda kind: kind.title))


def scheme_of(settings: Mapping[str, Any]) -> type[Scheme] | None:
    """The scheme that a `quantization_config` names; None when it is not read here."""
    return next((kind for kind in schemes() if kind.holds(settings)), None)
