"""An accelerator gives what the processor gives: every method, and the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_in_memory import added, merge
from safetensors.torch import load_file

from genepool.kernels.random_draws import uniform
from genepool.merging import REQUIRED, all_methods

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")

SHAPES = {
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 160),
    "model.layers.1.mlp.up_proj.weight": (160, 64),
    "model.norm.weight": (64,),
}


def _drawn(seed: int, scale: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (scale * torch.randn(shape, generator=generator)).to(dtype) for name, shape in SHAPES.items()}


def _setting(method: str, dtype: torch.dtype) -> dict[str, Any]:
    declared = all_methods()[method]
    most = declared.models[1]
    if most is not None and declared.base == "counted":
        most -= 1
    base = _drawn(1, 1.0, dtype)
    return {
        "base": None if declared.base == "unused" else base,
        "models": [added(base, _drawn(i + 2, 0.1, dtype)) for i in range(min(3, most or 3))],
        **{p.name: 0.5 for p in declared.parameters if p.default is REQUIRED},
    }


def _scopes(method: str) -> list[dict[str, Any]]:
    names = {p.name for p in all_methods()[method].parameters}
    return [{"scope": "model"}, {"scope": "tensor"}] if "scope" in names else [{}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", sorted(all_methods()))
def test_every_method_computes_the_same_there(method: str, dtype: torch.dtype) -> None:
    setting = _setting(method, dtype)
    for scope in _scopes(method):
        here = merge(method, **setting, **scope)
        there = merge(method, **setting, **scope, device="cuda")
        # Sums in another order may round a value of bfloat16 to its neighbour, which is 2^-8 of it away.
        atol, rtol = (2e-4, 1e-3) if dtype == torch.float32 else (2e-3, 2**-7)
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, atol=atol, rtol=rtol)


def test_linear_algebra_may_begin_in_many_threads() -> None:
    """In a process of its own: torch loads it once in each."""
    code = (
        "import torch; from concurrent.futures import ThreadPoolExecutor; from genepool.kernels import spectral\n"
        "matrices = [torch.randn(64, 64, device='cuda') for _ in range(16)]\n"
        "with ThreadPoolExecutor(16) as pool:\n"
        "    print(len(list(pool.map(lambda m: spectral.singular_triplets(m, 8), matrices))))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "16", ran.stderr


def test_draws_are_the_same_everywhere() -> None:
    assert torch.equal(uniform(100_003, 17, 5, "cuda").cpu(), uniform(100_003, 17, 5))


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "tsv_m"])
def test_files_are_merged_through_the_accelerator(
    method: str, save_model: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    base = _drawn(1, 1.0, torch.bfloat16)
    save_model("base", base)
    for i in (1, 2):
        save_model(f"m{i}", added(base, _drawn(i + 1, 0.1, torch.bfloat16)))
    against = "" if method == "linear" else "base: base\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"genepool: 1\nmethod: {method}\n{against}models: [m1, m2]\ndtype: bfloat16\n")
    results = {}
    for device in ("cpu", "cuda"):
        ran = cli("merge", str(recipe), str(tmp_path / device), "--device", device, "--verify")
        assert ran.code == 0, ran.err
        results[device] = load_file(tmp_path / device / "model.safetensors")
    for name, value in results["cpu"].items():
        torch.testing.assert_close(results["cuda"][name], value, atol=2e-3, rtol=2**-7)
