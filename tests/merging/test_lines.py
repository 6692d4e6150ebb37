"""LiNeS: the change to the base grows from layer to layer, for any method that has a base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, assert_equal, drawn

from genepool.errors import InputError
from genepool.merging import Recipe, engine, parse_recipe, plan_merge
from genepool.weights.in_memory import TensorWeights

seeds = st.integers(0, 10_000)
METHODS = ["task_arithmetic", "ties", "model_stock", "nuslerp", "slerp"]


def _plan(method: str, base: dict[str, torch.Tensor], models: list[dict[str, torch.Tensor]], lines: Any) -> Any:
    sources = {f"m{i}": TensorWeights(tensors, f"m{i}") for i, tensors in enumerate(models)}
    parameters = {"slerp": {"t": 0.5}, "task_arithmetic": {"lambda": 1.0}}.get(method, {})
    data = {"genepool": 1, "method": method, "base": "base", "models": list(sources), "parameters": parameters}
    recipe = parse_recipe(data | ({} if lines is None else {"lines": lines}))
    return plan_merge(recipe, sources | {"base": TensorWeights(base, "base")})


def _merged(*arguments: Any) -> dict[str, torch.Tensor]:
    weights = _plan(*arguments).weights()
    return {name: weights.read(name) for name in weights.names()}


def _experts(method: str, base: dict[str, torch.Tensor], seed: int) -> list[dict[str, torch.Tensor]]:
    return [added(base, drawn(seed + i, 0.3)) for i in (1, 2)][: 1 if method == "slerp" else 2]


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds, alpha=st.floats(0, 1.5), beta=st.floats(0, 1))
def test_the_change_of_each_layer_is_scaled_by_its_factor(method: str, seed: int, alpha: float, beta: float) -> None:
    base = drawn(seed)
    models = _experts(method, base, seed)
    plain, scaled = (_merged(method, base, models, lines) for lines in (None, {"alpha": alpha, "beta": beta}))
    # Layers 0, 1 and 2, and the norm after them.
    for name, factor in zip(TENSORS, (alpha, alpha + beta / 2, alpha + beta, alpha), strict=True):
        expected = base[name] + factor * (plain[name] - base[name])
        torch.testing.assert_close(scaled[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_alpha_is_measured_over_the_whole_vector_in_blocks_of_any_size(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = drawn(3)
    models = _experts(method, base, 3)
    plain = _merged(method, base, models, None)
    summed = sum(float(sum(m[n] - base[n] for m in models).abs().sum()) for n in TENSORS)
    merged = sum(float((plain[n] - base[n]).abs().sum()) for n in TENSORS)
    alpha = summed / merged / len(models)
    expected = _merged(method, base, models, {"alpha": alpha, "beta": 0.5})
    assert_equal(_merged(method, base, models, {"beta": 0.5}), expected)
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 7)
    assert_equal(_merged(method, base, models, {"beta": 0.5}), expected)


def test_by_hand() -> None:
    base = {name: torch.zeros(2) for name in TENSORS}
    expert = {name: torch.ones(2) for name in TENSORS}
    # One model, beta 1 - alpha: the last layer is left as it is.
    one = _merged("task_arithmetic", base, [expert], {"alpha": 0.5})
    assert [float(one[name][0]) for name in TENSORS] == [0.5, 0.75, 1.0, 0.5]
    # Two models added up: ||sum|| / ||merged|| / 2 = 1/2.
    two = _merged("task_arithmetic", base, [expert, expert], {"beta": 0.5})
    assert [float(two[name][0]) for name in TENSORS] == [1.0, 1.5, 2.0, 1.0]
    # Nothing merged, nothing to scale.
    assert_equal(_merged("task_arithmetic", base, [base], {"beta": 0.5}), base, 0)


def test_a_number_inside_a_layer_is_not_a_layer() -> None:
    names = [f"layers.{i}.experts.{e}.w.weight" for i in range(3) for e in (0, 1, 7)]
    base, expert = {n: torch.zeros(2, 2) for n in names}, {n: torch.ones(2, 2) for n in names}
    merged = _merged("task_arithmetic", base, [expert], {"alpha": 0.0})
    assert [float(merged[name][0, 0]) for name in names] == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]


def test_slices_count_the_layers_of_the_output() -> None:
    base = {name: torch.zeros(2, 2) for name in TENSORS}
    expert = {name: torch.ones(2, 2) for name in TENSORS}
    slices = [
        {"sources": [{"model": model, "layer_range": [a, b]} for model in ("base", "m")]} for a, b in ((0, 2), (1, 3))
    ]
    recipe = Recipe(
        method="task_arithmetic", base="base", slices=slices, lines={"alpha": 0.0}, parameters={"lambda": 1.0}
    )
    weights = plan_merge(recipe, {"base": TensorWeights(base, "base"), "m": TensorWeights(expert, "m")}).weights()
    found = [float(weights.read(f"layers.{i}.mlp.up_proj.weight")[0, 0]) for i in range(4)]
    assert found == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_the_digest_and_the_passes_know_of_it() -> None:
    base, models = drawn(0), [added(drawn(0), drawn(i)) for i in (1, 2)]
    plans = [_plan("ties", base, models, lines) for lines in (None, {"alpha": 0.5}, {"alpha": 0.4}, {"beta": 0.5})]
    assert len({plan.fingerprint() for plan in plans}) == 4
    assert [plan.passes - plans[0].passes for plan in plans] == [0, 0, 0, 1]
    assert plans[1].recipe.to_dict()["lines"] == {"alpha": 0.5}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"method": "task_arithmetic", "base": "b", "lines": {}}, "needs `beta`"),
        ({"method": "task_arithmetic", "base": "b", "lines": {"alpha": 1.5}}, "needs `beta`"),
        ({"method": "task_arithmetic", "base": "b", "lines": {"alpha": -1}}, "greater than or equal to 0"),
        ({"method": "linear", "base": "b", "lines": {"beta": 1}}, "linear has none here"),
        ({"method": "nuslerp", "lines": {"beta": 1}}, "nuslerp has none here"),
    ],
)
def test_what_cannot_be_scaled_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_recipe({"genepool": 1, "models": ["m"], **data}).checked()
