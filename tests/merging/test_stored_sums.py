"""Weighted sums from bytes to bytes: the same values as through torch, bit for bit, and without importing it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, drawn
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.kernels import sums
from genepool.merging import load_recipe, plan_merge, stored_sum
from genepool.merging.stored_sum import StoredSums

# Those that are sums at every tensor with these parameters, and a base where they take one.
SUMS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.7},
    "task_arithmetic": {"weight": 0.7, "normalize": True},
    "ema": {"decay": 0.3},
    "passthrough": {"scale": 0.9},
    "layer_swap": {},
    "slerp": {"t": 0.3},
    "karcher": {},
    "multislerp": {},
    "nuslerp": {},
    "model_stock": {},
}
BASED = {"task_arithmetic", "ema", "multislerp", "nuslerp", "model_stock"}
COUNTS = {"passthrough": 1, "slerp": 2, "layer_swap": 2, "nuslerp": 2}


@given(
    seed=st.integers(0, 10_000),
    kinds=st.tuples(st.sampled_from([np.uint16, np.uint32]), st.sampled_from([np.uint16, np.uint32])),
    entries=st.sampled_from([1, 7, 1024, 3000]),
    divisor=st.sampled_from([1.0, 3.0]),
    base=st.sampled_from(["none", "added", "subtracted"]),
)
def test_numpy_and_the_compiled_loop_give_the_same_bits(
    seed: int, kinds: tuple[Any, Any], entries: int, divisor: float, base: str
) -> None:
    generator = np.random.default_rng(seed)
    wide = generator.standard_normal((4, entries)).astype(np.float32).view(np.uint32)
    rows = (wide >> 16).astype(np.uint16) if kinds[0] is np.uint16 else wide
    vectors, under = rows[1:], rows[0, : 0 if base == "none" else entries]
    results = [np.empty(entries, kinds[1]) for _ in range(2)]
    for compiled, out in zip((True, False), results, strict=True):
        arguments = {"subtract": base == "subtracted", "out": out, "compiled": compiled}
        assert sums.sum_bits(vectors, under, [0.3, -1.2, 0.5], divisor, **arguments)
    assert (results[0] == results[1]).all()
    products = [sums.gram_bits(vectors, under, compiled=compiled) for compiled in (True, False)]
    np.testing.assert_allclose(products[0], products[1], rtol=1e-4, atol=1e-4 * entries**0.5)


@given(seed=st.integers(0, 10_000), divisor=st.sampled_from([1.0, 3.0]), based=st.booleans())
def test_sums_and_products_are_those_of_the_formula(seed: int, divisor: float, based: bool) -> None:
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    base = torch.ones(4, 5) if based else None
    found = sums.weighted_sum(vectors, [0.5, 2.0, -1.0], divisor, base)
    torch.testing.assert_close(found, sums._formula(vectors, [0.5, 2.0, -1.0], divisor, base), rtol=1e-6, atol=1e-6)
    products = torch.from_numpy(sums.gram(vectors))
    torch.testing.assert_close(products, sums._gram_formula(vectors), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("compiled", [True, False])
def test_one_value_that_is_not_finite_is_seen_even_at_weight_zero(value: float, compiled: bool) -> None:
    rows = np.ones((2, 2000), np.float32)
    rows[1, 1500] = value
    bits, out = rows.view(np.uint32), np.empty(2000, np.uint16)
    assert not sums.sum_bits(bits, bits[0, :0], [1.0, 0.0], 1.0, subtract=False, out=out, compiled=compiled)


@pytest.fixture
def written(save_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes models of the given types (the base first) and a recipe that merges them."""

    def write(method: str, kinds: list[torch.dtype], **more: Any) -> Path:
        based, count = method in BASED, COUNTS.get(method, 3)
        base, folders = drawn(1), []
        for i in range(count + based):
            model = base if i == 0 else added(base, drawn(i + 1, 0.1))
            kind = kinds[i % len(kinds)]
            folders.append(save_model(f"m{i}", {name: tensor.to(kind) for name, tensor in model.items()}))
        recipe = {
            "genepool": 1,
            "method": method,
            "models": [str(folder) for folder in folders[based:]],
            "parameters": SUMS[method],
            **({"base": str(folders[0])} if based else {}),
            **more,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.mark.parametrize("kinds", [[torch.bfloat16], [torch.float32], [torch.bfloat16, torch.float16, torch.float32]])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("method", sorted(SUMS))
def test_the_same_bits_as_through_torch(
    method: str, dtype: str, kinds: list[torch.dtype], written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(method, kinds, dtype=dtype)
    outputs = plan_merge(load_recipe(recipe)).layout.outputs
    taken = {name: plan_merge(load_recipe(recipe)).weights() for name in ("stored", "torch")}
    assert all(StoredSums(taken["stored"].plan).takes(out) for out in outputs)
    stored = {name: taken["stored"].read(name) for name in TENSORS}
    monkeypatch.setattr(StoredSums, "takes", lambda self, out: False)
    for name in TENSORS:
        # Surveys add their products up in another order; what follows from equal factors is equal to the last bit.
        tolerance = 0 if method in ("linear", "task_arithmetic", "ema", "passthrough", "layer_swap") else 1e-2
        torch.testing.assert_close(stored[name], taken["torch"].read(name), rtol=tolerance, atol=tolerance / 10)


def test_large_merges_use_the_compiled_loop_and_give_the_same_bits(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written("task_arithmetic", [torch.bfloat16])
    small = plan_merge(load_recipe(recipe)).weights()
    assert not StoredSums(small.plan)._is_large
    monkeypatch.setattr(stored_sum, "_LARGE", 1)
    large = plan_merge(load_recipe(recipe)).weights()
    for name in TENSORS:
        assert torch.equal(small.read(name), large.read(name))


# Merges by every recipe of a folder in one process, which must never import torch.
_MERGE_ALL = """
import sys
from pathlib import Path
from genepool.cli.main import run
for recipe in sorted(Path(sys.argv[1]).glob("*.yaml")):
    code = run(["merge", str(recipe), str(recipe.with_suffix("")), "--quiet"])
    if code or "torch" in sys.modules:
        sys.exit(f"{recipe.stem}: {code}" if code else f"{recipe.stem}: torch was imported")
"""


@pytest.mark.slow
def test_the_command_line_merges_without_torch(written: Callable[..., Path], tmp_path: Path) -> None:
    for method in SUMS:
        # The models are the same for all of them: only how many are named differs.
        written(method, [torch.bfloat16]).rename(tmp_path / f"{method}.yaml")
    done = subprocess.run(
        [sys.executable, "-c", _MERGE_ALL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for method in SUMS:
        assert set(load_file(tmp_path / method / "model.safetensors")) == set(TENSORS)


def test_a_sum_too_large_for_float16_is_refused_by_name(written: Callable[..., Path]) -> None:
    recipe = written("passthrough", [torch.float32], dtype="float16")
    recipe.write_text(recipe.read_text().replace("0.9", "1.0e+6"))
    with pytest.raises(InputError, match="too large for float16"):
        plan_merge(load_recipe(recipe)).weights().read(TENSORS[0])
