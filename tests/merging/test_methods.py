"""Merge methods: what must hold for any input, then tiny inputs worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, assert_equal, drawn, merge, one

from genepool.kernels.selection import MagnitudeSelection, keep_count
from genepool.merging import REQUIRED, all_methods

DELTA_METHODS = ["task_arithmetic", "ties", "dare_linear", "dare_ties", "model_stock"]
seeds = st.integers(0, 10_000)


# ---------------------------------------------------------------------- properties


@pytest.mark.parametrize("method", DELTA_METHODS)
@given(seed=seeds)
def test_experts_equal_to_the_base_give_the_base(method: str, seed: int) -> None:
    base = drawn(seed)
    assert_equal(merge(method, base, [base, base]), base, 0)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "model_stock"])
@given(seed=seeds)
def test_the_order_of_the_models_does_not_matter(method: str, seed: int) -> None:
    base = drawn(seed)
    models = [added(base, drawn(seed + i, 0.1)) for i in (1, 2, 3)]
    assert_equal(merge(method, base, models), merge(method, base, models[::-1]))


@pytest.mark.parametrize("method", DELTA_METHODS)
@given(seed=seeds)
def test_moving_base_and_experts_together_moves_the_merge(method: str, seed: int) -> None:
    base, shift = drawn(seed), drawn(seed + 7)
    deltas = [drawn(seed + i, 0.5) for i in (1, 2)]
    # Steps on a coarse grid, so that the sums are exact and both runs see the very same deltas.
    base, shift, *deltas = ({n: torch.round(t * 64) / 64 for n, t in part.items()} for part in (base, shift, *deltas))
    here = merge(method, base, [added(base, d) for d in deltas])
    there = merge(method, added(base, shift), [added(added(base, shift), d) for d in deltas])
    assert_equal(added(here, shift), there)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "model_stock"])
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_scaling_the_deltas_scales_the_merged_delta(method: str, seed: int, factor: float) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    models = [drawn(seed + 1), drawn(seed + 2)]
    scaled = [{n: t * factor for n, t in model.items()} for model in models]
    expected = {name: value * factor for name, value in merge(method, zero, models).items()}
    assert_equal(merge(method, zero, scaled), expected, 1e-4)


@given(seed=seeds, weights=st.lists(st.floats(-2, 2), min_size=2, max_size=4))
def test_task_arithmetic_is_linear_in_its_weights(seed: int, weights: list[float]) -> None:
    base = drawn(seed)
    deltas = [drawn(seed + i + 1) for i in range(len(weights))]
    merged = merge(
        "task_arithmetic", base, [added(base, d) for d in deltas], [{"weight": w} for w in weights], **{"lambda": 1.0}
    )
    for name in TENSORS:
        expected = base[name] + sum(w * d[name] for w, d in zip(weights, deltas, strict=True))
        torch.testing.assert_close(merged[name], expected, atol=1e-4, rtol=1e-4)


@given(seed=seeds, scope=st.sampled_from(["model", "tensor"]))
def test_ties_at_full_density_with_agreeing_signs_is_the_mean(seed: int, scope: str) -> None:
    base = drawn(seed)
    deltas = [{n: t.abs() for n, t in drawn(seed + i).items()} for i in (1, 2, 3)]
    merged = merge("ties", base, [added(base, d) for d in deltas], density=1.0, scope=scope)
    mean = {name: base[name] + sum(d[name] for d in deltas) / 3 for name in TENSORS}
    assert_equal(merged, mean)


@given(seed=seeds, density=st.floats(0.05, 0.95), scope=st.sampled_from(["model", "tensor"]))
def test_ties_of_one_model_keeps_exactly_the_largest_entries(seed: int, density: float, scope: str) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    expert = drawn(seed)
    merged = merge("ties", zero, [expert], density=density, scope=scope)
    parts = [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]
    for names in parts:
        before = torch.cat([expert[name].flatten() for name in names])
        after = torch.cat([merged[name].flatten() for name in names])
        kept = after != 0
        assert int(kept.sum()) == max(1, int(density * before.numel()))
        torch.testing.assert_close(after[kept], before[kept])
        assert before[kept].abs().min() >= before[~kept].abs().max()


@given(seed=seeds, density=st.sampled_from([0.1, 0.5, 0.9]), rescale=st.sampled_from(["density", "l1", "none"]))
def test_dare_keeps_or_drops_every_entry_by_one_factor(seed: int, density: float, rescale: str) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    expert = drawn(seed)
    merged = merge("dare_linear", zero, [expert], seed=seed, density=density, rescale=rescale)
    for name in TENSORS:
        kept = merged[name] != 0
        factors = merged[name][kept] / expert[name][kept]
        if kept.any():
            expected = {
                "density": 1 / density,
                "none": 1.0,
                "l1": float(expert[name].abs().sum() / expert[name][kept].abs().sum()),
            }[rescale]
            torch.testing.assert_close(factors, torch.full_like(factors, expected), atol=1e-4, rtol=1e-4)


def test_dare_keeps_the_expected_share_and_is_unbiased() -> None:
    expert = {"norm.weight": torch.ones(200_000)}
    merged = merge("dare_linear", {"norm.weight": torch.zeros(200_000)}, [expert], density=0.1)["norm.weight"]
    assert float((merged != 0).float().mean()) == pytest.approx(0.1, abs=0.003)
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_masks_belong_to_seed_and_tensor_alone(method: str) -> None:
    base, expert = drawn(0), added(drawn(0), drawn(1))
    everywhere = merge(method, base, [expert], density=0.5, seed=3)
    assert_equal(everywhere, merge(method, base, [expert], density=0.5, seed=3), 0)
    other = merge(method, base, [expert], density=0.5, seed=4)
    assert any(not torch.equal(everywhere[name], other[name]) for name in TENSORS)
    if method == "dare_linear":
        # Another density in one tensor leaves the masks of all others as they were.
        partly = merge(method, base, [expert], seed=3, density=[{"filter": "norm", "value": 0.9}, {"value": 0.5}])
        for name in TENSORS[:-1]:
            assert torch.equal(everywhere[name], partly[name])


@given(seed=seeds, t=st.floats(0, 1))
def test_slerp_keeps_the_length_of_unit_vectors_and_its_ends(seed: int, t: float) -> None:
    a, b = ({n: v / v.norm() for n, v in drawn(seed + i).items()} for i in (0, 1))
    merged = merge("slerp", None, [a, b], t=t)
    for name in TENSORS:
        assert float(merged[name].norm()) == pytest.approx(1, abs=1e-4)
    assert_equal(merge("slerp", None, [a, b], t=0.0), a)
    assert_equal(merge("slerp", None, [a, b], t=1.0), b)
    assert_equal(merge("slerp", None, [b, a], t=1 - t), merged, 1e-4)


@given(seed=seeds)
def test_model_stock_lies_between_the_base_and_the_mean(seed: int) -> None:
    base = drawn(seed)
    models = [added(base, drawn(seed + i, 0.3)) for i in (1, 2, 3)]
    merged = merge("model_stock", base, models)
    for name in TENSORS:
        mean = sum(model[name] for model in models) / 3 - base[name]
        ratio = float(((merged[name] - base[name]) * mean).sum() / (mean * mean).sum())
        assert -1e-5 <= ratio <= 1 + 1e-5
        torch.testing.assert_close(merged[name], base[name] + ratio * mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", sorted(all_methods()))
def test_every_method_says_where_it_comes_from_and_keeps_shapes(method: str) -> None:
    declared = all_methods()[method]
    assert declared.source
    assert declared.when.endswith(".")
    assert declared.formula
    shapes = [(), (1,), (7,), (0,), (3, 1), (2, 3, 2)]
    base = {f"layers.{i}.mlp.w.weight": torch.randn(shape) for i, shape in enumerate(shapes)}
    models = [{n: t + 0.1 for n, t in base.items()}, {n: t - 0.2 for n, t in base.items()}]
    count = min(2, declared.models[1] or 2) - (declared.base == "counted")
    parameters = {p.name: 0.5 for p in declared.parameters if p.default is REQUIRED}
    merged = merge(method, None if declared.base == "unused" else base, models[:count], **parameters)
    assert {n: t.shape for n, t in merged.items()} == {n: t.shape for n, t in base.items()}
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())


# ---------------------------------------------------------------------- worked out by hand


def test_linear_by_hand() -> None:
    merged = merge("linear", None, [one([1, 2]), one([3, 6])], [{"weight": 1}, {"weight": 3}])
    assert merged["norm.weight"].tolist() == [2.5, 5.0]
    summed = merge("linear", None, [one([1, 2]), one([3, 6])], [{"weight": 1}, {"weight": 3}], normalize=False)
    assert summed["norm.weight"].tolist() == [10.0, 20.0]


def test_task_arithmetic_by_hand() -> None:
    merged = merge("task_arithmetic", one([1, 1]), [one([2, 1]), one([1, 5])], **{"lambda": 0.5})
    assert merged["norm.weight"].tolist() == [1.5, 3.0]
    unlearned = merge("task_arithmetic", one([1, 1]), [one([2, 1])], [{"weight": -1}], **{"lambda": 1.0})
    assert unlearned["norm.weight"].tolist() == [0.0, 1.0]


def test_ties_by_hand() -> None:
    # Half of [4 -1 2 3] kept: 4, 3; half of [-2 5 1 -6]: 5, -6. Votes: 4, 5, 0, -3.
    merged = merge("ties", one([0, 0, 0, 0]), [one([4, -1, 2, 3]), one([-2, 5, 1, -6])], density=0.5)
    assert merged["norm.weight"].tolist() == [4.0, 5.0, 0.0, -6.0]


def test_ties_trims_over_the_whole_vector_or_each_tensor() -> None:
    zero = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    expert = {"a.weight": torch.tensor([10.0, 9.0]), "b.weight": torch.tensor([2.0, 1.0])}
    whole = merge("ties", zero, [expert], density=0.5, scope="model")
    assert whole["a.weight"].tolist() == [10, 9]
    assert whole["b.weight"].tolist() == [0, 0]
    each = merge("ties", zero, [expert], density=0.5, scope="tensor")
    assert each["a.weight"].tolist() == [10, 0]
    assert each["b.weight"].tolist() == [2, 0]


def test_ties_gives_cancelled_votes_the_majority_sign() -> None:
    # First entry: +2 against -2. The other two elect minus, so minus is the majority.
    models = [one([2, -3, -1]), one([-2, -1, -1])]
    merged = merge("ties", one([0, 0, 0]), models, density=1.0)
    assert merged["norm.weight"].tolist() == [-2.0, -2.0, -1.0]
    positive = merge("ties", one([0, 0, 0]), models, density=1.0, zero_sign="positive")
    assert positive["norm.weight"].tolist() == [2.0, -2.0, -1.0]


def test_slerp_by_hand() -> None:
    merged = merge("slerp", None, [one([1, 0]), one([0, 1])], t=0.5)["norm.weight"]
    torch.testing.assert_close(merged, torch.tensor([math.sqrt(0.5), math.sqrt(0.5)]))
    # Parallel vectors are interpolated along the line between them.
    assert merge("slerp", None, [one([1, 0]), one([3, 0])], t=0.5)["norm.weight"].tolist() == [2, 0]


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_does_not_depend_on_how_far_the_models_moved(filter_wise: bool) -> None:
    """The ratio is of angles alone: at a ten-thousandth of the distance it is the same, but for mergekit's floor."""
    far, near = ([one([scale, scale]), one([scale, 0])] for scale in (1.0, 1e-4))
    options = {"filter_wise": filter_wise}
    expected = merge("model_stock", one([0, 0]), far, **options)["norm.weight"]
    found = merge("model_stock", one([0, 0]), near, **options)["norm.weight"]
    torch.testing.assert_close(found * 1e4, expected)
    floored = merge("model_stock", one([0, 0]), near, cosine_floor=1e-6, **options)["norm.weight"]
    assert (floored * 1e4 < 0.1 * expected).any()


def test_model_stock_by_hand() -> None:
    # Deltas [1 1] and [1 0]: cos = 1/sqrt 2, r = 2 cos / (1 + cos).
    merged = merge("model_stock", one([0, 0]), [one([1, 1]), one([1, 0])])["norm.weight"]
    cos = math.sqrt(0.5)
    ratio = 2 * cos / (1 + cos)
    torch.testing.assert_close(merged, torch.tensor([ratio, ratio / 2]))
    # Opposed models stay at the base rather than walk away from it.
    assert merge("model_stock", one([0, 0]), [one([1, 1]), one([-1, -0.9])])["norm.weight"].tolist() == [0, 0]


def test_passthrough_scales_what_it_is_told_to() -> None:
    model = {"layers.0.mlp.down_proj.weight": torch.ones(2), "norm.weight": torch.ones(2)}
    merged = merge("passthrough", None, [model], scale=[{"filter": "down_proj", "value": 0.0}, {"value": 1.0}])
    assert merged["layers.0.mlp.down_proj.weight"].tolist() == [0, 0]
    assert merged["norm.weight"].tolist() == [1, 1]


def test_integer_tensors_are_kept_not_averaged() -> None:
    base = {"norm.weight": torch.zeros(2), "counter": torch.tensor([3])}
    expert = {"norm.weight": torch.ones(2), "counter": torch.tensor([9])}
    assert merge("task_arithmetic", base, [expert])["counter"].tolist() == [3]


# ---------------------------------------------------------------------- exact selection


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200),
    data=st.data(),
)
def test_streamed_selection_is_exact(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    vector = torch.tensor(values, dtype=torch.float32)
    selection = MagnitudeSelection(k)
    for number in range(selection.passes):
        for part in (vector[cut:], vector[:cut]):
            counts = selection.begin(number)
            selection.observe(number, part, counts)
            selection.fold(counts)
        selection.finish(number)
    expected = sorted(vector.abs().tolist(), reverse=True)[k - 1]
    assert selection.threshold == expected


@given(density=st.floats(0, 1), numel=st.integers(0, 10**6))
def test_a_density_keeps_at_least_one_entry_unless_it_is_zero(density: float, numel: int) -> None:
    kept = keep_count(density, numel)
    assert 0 <= kept <= numel
    assert (kept > 0) == (density > 0 and numel > 0)
