"""Fisher and RegMean as merge methods: worked out by hand, and what must hold for any statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_in_memory import assert_equal

from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.weights import TensorWeights

seeds = st.integers(0, 10_000)
Tensors = dict[str, torch.Tensor]


def merge(
    method: str,
    models: list[Tensors],
    known: list[Tensors],
    base: Tensors | None = None,
    kind: str = "",
    **parameters: Any,
) -> Tensors:
    names = [f"m{i}" for i in range(len(models))]
    sources = {name: TensorWeights(tensors, name) for name, tensors in zip(names, models, strict=True)}
    if base is not None:
        sources["base"] = TensorWeights(base, "base")
    prefix = kind or {"fisher": "fisher", "regmean": "gram"}[method]
    statistics = {f"{prefix}/{name}/{key}": v for name, one in zip(names, known, strict=True) for key, v in one.items()}
    recipe = Recipe(method=method, base=None if base is None else "base", models=names, parameters=parameters)
    keys = {name: name for name in names}
    found = plan_merge(recipe, sources, statistics=(TensorWeights(statistics, "statistics"), keys)).weights()
    return {name: found.read(name) for name in found.names()}


def drawn(seed: int, *shape: int, count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_fisher_by_hand() -> None:
    models = [{"w": torch.tensor([1.0, 2.0, 4.0])}, {"w": torch.tensor([3.0, 6.0, 8.0])}]
    known = [{"w": torch.tensor([3.0, 0.0, 0.0])}, {"w": torch.tensor([1.0, 2.0, 0.0])}]
    found = merge("fisher", models, known, normalize=False)
    # Where no model knows anything the floor is the same for all: the mean.
    assert found["w"].tolist() == pytest.approx([1.5, 6.0, 6.0], abs=1e-5)
    norm = 5**0.5
    normed = merge("fisher", models, known)["w"]
    assert float(normed[0]) == pytest.approx((1 + 3 / norm) / (1 + 1 / norm), abs=1e-5)


@settings(max_examples=20)
@given(seed=seeds, factor=st.sampled_from([1e-3, 7.0]))
def test_normalised_fisher_ignores_how_large_gradients_are(seed: int, factor: float) -> None:
    models = [{"w": one} for one in drawn(seed, 4, 3)]
    known = [{"w": one.square()} for one in drawn(seed + 1, 4, 3)]
    scaled = [known[0], {"w": known[1]["w"] * factor}]
    assert_equal(merge("fisher", models, known), merge("fisher", models, scaled), 1e-4)


@settings(max_examples=20)
@given(seed=seeds, method=st.sampled_from(["fisher", "regmean"]))
def test_a_base_changes_nothing_but_the_rounding(seed: int, method: str) -> None:
    models = [{"w": one} for one in drawn(seed, 4, 3)]
    base = {"w": drawn(seed + 2, 4, 3)[0]}
    inputs = drawn(seed + 1, 6, 3)
    known = [{"w": one.square()[:4] if method == "fisher" else one.T @ one / 6} for one in inputs]
    assert_equal(merge(method, models, known), merge(method, models, known, base), 1e-4)


@settings(max_examples=10)
@given(seed=seeds)
def test_one_input_each_is_answered_as_each_model_does(seed: int) -> None:
    """A single example leaves the Gram matrix with rank one; what it says still holds, and the rest is the mean."""
    models, inputs = drawn(seed, 4, 6), drawn(seed + 1, 6)
    known = [{"w": torch.outer(x, x)} for x in inputs]
    found = merge("regmean", [{"w": one} for one in models], known, off_diagonal=1.0)["w"]
    for model, x in zip(models, inputs, strict=True):
        torch.testing.assert_close(found @ x, model @ x, atol=1e-2, rtol=1e-3)
    # A direction that no input has.
    basis = torch.linalg.qr(torch.stack([*inputs, *drawn(seed + 2, 6, count=4)], 1)).Q
    torch.testing.assert_close(found @ basis[:, 2:], (sum(models) / 2) @ basis[:, 2:], atol=1e-3, rtol=1e-3)


@given(seed=seeds)
def test_a_matrix_of_inputs_by_outputs_is_merged_alike(seed: int) -> None:
    models, inputs = drawn(seed, 4, 3), drawn(seed + 1, 9, 3)
    known = [{"w": x.T @ x / 9} for x in inputs]
    plain = merge("regmean", [{"w": one} for one in models], known)["w"]
    turned = merge("regmean", [{"w": one.T.contiguous()} for one in models], known, kind="gram_transposed")["w"]
    torch.testing.assert_close(turned.T, plain)


def test_without_off_diagonals_inputs_are_weighed_one_by_one() -> None:
    models = [{"w": torch.tensor([[1.0, 2.0, 3.0]])}, {"w": torch.tensor([[5.0, 6.0, 5.0]])}]
    known = [{"w": torch.diag(torch.tensor([3.0, 0.0, 0.0]))}, {"w": torch.diag(torch.tensor([1.0, 2.0, 0.0]))}]
    # The second input is one of the second model's alone; the third is none of either's.
    assert merge("regmean", models, known, off_diagonal=0.0)["w"].tolist() == [[2.0, 6.0, 4.0]]


def test_equal_statistics_give_the_mean_and_unknown_tensors_too(loud: None, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = drawn(1, 4, 3)
    gram = torch.eye(3) + 0.3
    models = [{"w": one, "bias": one[0], "v": one.clone()} for one in (first, second)]
    found = merge("regmean", models, [{"w": gram}, {"w": gram}])
    assert_equal(found, {"w": (first + second) / 2, "bias": (first + second)[0] / 2, "v": (first + second) / 2})
    assert "of v there are no gram statistics; the weighted mean is taken" in capsys.readouterr().err


def test_what_is_no_gram_matrix_is_refused() -> None:
    models = [{"w": one} for one in drawn(1, 4, 3)]
    wrong = torch.eye(3)
    wrong[0, 1] = wrong[1, 0] = 5.0
    with pytest.raises(InputError, match="w: its statistics are no Gram matrix"):
        merge("regmean", models, [{"w": wrong}, {"w": wrong}])
    lopsided = torch.eye(3)
    lopsided[0, 1] = 0.2
    with pytest.raises(InputError, match="gram/m0/w: is not symmetric, as a Gram matrix is"):
        merge("regmean", models, [{"w": lopsided}, {"w": lopsided}])
    with pytest.raises(InputError, match=r"gram/m0/w: is \[2, 2\] of F32, expected floats of \[3, 3\]"):
        merge("regmean", models, [{"w": torch.eye(2)}, {"w": torch.eye(2)}])
