"""The tiny models that every merge is held against its oracles on: one Llama of four layers and its fine-tunes.

They are those of `tests/goldens/mergekit/inputs.py`, made again from a seed bit for bit, and sparse ones made of them.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"
THREE = ("a", "b", "c")
# A sparse fine-tune keeps the changes above this multiple of the median of each tensor.
SPARSE = {"sparse_a": 1.0, "sparse_b": 1.3, "sparse_c": 0.7}

Model = dict[str, np.ndarray]


@functools.cache
def golden_inputs() -> ModuleType:
    """The module that makes the models."""
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDENS / "mergekit" / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def model(name: str, rounded: bool = False) -> Model:
    """One model, float32; `rounded` to what bfloat16 can hold, so that many changes are of one size."""
    inputs = golden_inputs()
    if name in SPARSE:
        base, whole = model("base"), model(name.removeprefix("sparse_"))
        tensors = {key: _sparse(base[key], whole[key], SPARSE[name]) for key in base}
    else:
        tensors = inputs.tensors(name)
    return {key: _rounded(inputs, values) if rounded else values for key, values in tensors.items()}


@functools.cache
def statistics(kind: str, name: str) -> Model:
    """What calibration might have found out about one model, float32: of every tensor, or of every matrix."""
    drawn = np.random.default_rng(sum(name.encode()))
    found = {}
    for key, values in model(name).items():
        if kind == "fisher":
            found[key] = (drawn.standard_normal(values.shape) ** 2).astype(np.float32)
        elif values.ndim == 2 and "embed" not in key:
            inputs = drawn.standard_normal((4 * values.shape[1], values.shape[1]))
            found[key] = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    return found


def describe(names: Sequence[str], rounded: bool = False) -> str:
    """What the models are, for a reader of the documentation."""
    kind = "sparse fine-tunes" if any(name in SPARSE for name in names) else "fine-tunes"
    count = {1: "one fine-tune", 2: f"two {kind}", 3: f"three {kind}"}[len(names)]
    return f"a Llama of four layers and {count}" + (", stored as bfloat16" if rounded else "")


def _sparse(base: np.ndarray, whole: np.ndarray, factor: float) -> np.ndarray:
    change = np.abs(whole - base)
    return np.where(change > np.float32(factor) * np.median(change), whole, base)


def _rounded(inputs: ModuleType, values: np.ndarray) -> np.ndarray:
    bits: np.ndarray = inputs._bfloat16_bits(values).astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)
