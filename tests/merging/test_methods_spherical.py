"""Methods that move on the sphere, over checkpoints, or layer by layer: slerp's family, ema, layer_swap, selekt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, assert_equal, drawn, merge, one

from genepool.errors import InputError
from genepool.merging import Recipe, engine, plan_merge
from genepool.merging.methods.karcher import karcher_factors
from genepool.merging.methods.layer_swap import share_of_second
from genepool.merging.parameters import Site
from genepool.weights import TensorWeights

seeds = st.integers(0, 10_000)
scopes = st.sampled_from(["tensor", "model"])
# Every kind of answer of this family: method, number of models, with a base or not, parameters.
CASES: list[tuple[str, int, bool, dict[str, Any]]] = [
    ("slerp", 2, False, {"t": 0.3}),
    ("slerp", 2, False, {"t": 0.3, "scope": "model"}),
    ("nuslerp", 2, False, {}),
    ("nuslerp", 2, True, {}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", 3, True, {}),
    ("multislerp", 3, False, {"scope": "model"}),
    ("karcher", 3, False, {}),
    ("karcher", 3, False, {"scope": "model"}),
    ("ema", 3, True, {"decay": 0.7}),
    ("ema", 3, False, {"decay": 0.7}),
    ("layer_swap", 2, False, {"bottom": 1, "top": 0, "transition": 0}),
    ("selekt", 1, True, {"alpha": 0.3}),
    ("selekt", 1, True, {"alpha": 0.3, "scope": "model"}),
]


def _run(case: tuple[str, int, bool, dict[str, Any]], base: Any, models: list[Any]) -> dict[str, torch.Tensor]:
    method, count, based, parameters = case
    return merge(method, base if based else None, models[:count], **parameters)


def _direction(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in TENSORS])


# ---------------------------------------------------------------------- properties of all


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
def test_blocks_of_any_size_give_the_same(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = drawn(0)
    models = [added(base, drawn(i, 0.4)) for i in (1, 2, 3)]
    whole = _run(case, base, models)
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 7)
    assert_equal(_run(case, base, models), whole, 1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
@given(seed=seeds)
def test_equal_models_give_that_model(case: Any, seed: int) -> None:
    base, expert = drawn(seed), drawn(seed + 1)
    if case[0] in ("ema", "selekt") and case[2]:
        expert = base
    assert_equal(_run(case, base, [expert] * 3), expert)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_scaling_everything_scales_the_merge(case: Any, seed: int, factor: float) -> None:
    base, models = drawn(seed), [drawn(seed + i) for i in (1, 2, 3)]

    def scaled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor * factor for name, tensor in tensors.items()}

    assert_equal(_run(case, scaled(base), [scaled(m) for m in models]), scaled(_run(case, base, models)), 1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
def test_zeros_give_zeros(case: Any) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    assert_equal(_run(case, zero, [zero] * 3), zero, 0)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in ("nuslerp", "multislerp", "karcher")])
@given(seed=seeds)
def test_the_order_of_the_models_does_not_matter(case: Any, seed: int) -> None:
    base, models = drawn(seed), [drawn(seed + i) for i in (1, 2, 3)][: case[1]]
    assert_equal(_run(case, base, models), _run(case, base, models[::-1]), 1e-4)


# ---------------------------------------------------------------------- the sphere


@given(seed=seeds, t=st.floats(0, 1))
def test_slerp_over_the_whole_vector_keeps_its_length(seed: int, t: float) -> None:
    a, b = (drawn(seed + i) for i in (0, 1))
    a, b = ({n: x / _direction(tensors).norm() for n, x in tensors.items()} for tensors in (a, b))
    merged = _direction(merge("slerp", None, [a, b], t=t, scope="model"))
    assert float(merged.norm()) == pytest.approx(1, abs=1e-4)
    # One angle for all: what one tensor gives up, another may gain.
    angle = math.acos(float(_direction(a) @ _direction(b)))
    assert float(merged @ _direction(a)) == pytest.approx(math.cos(t * angle), abs=1e-4)


@given(seed=seeds, first=st.floats(0.1, 3), second=st.floats(0.1, 3))
def test_nuslerp_of_two_models_is_slerp_at_their_share(seed: int, first: float, second: float) -> None:
    models = [drawn(seed), drawn(seed + 1)]
    merged = merge("nuslerp", None, models, [{"weight": first}, {"weight": second}])
    assert_equal(merged, merge("slerp", None, models, t=second / (first + second)), 1e-4)


@pytest.mark.slow
@given(seed=seeds)
def test_nuslerp_by_row_is_nuslerp_of_each_row_and_by_column_of_each_column(seed: int) -> None:
    base, models = drawn(seed), [drawn(seed + 1), drawn(seed + 2)]
    by_row = merge("nuslerp", base, models, nuslerp_flatten=False)
    by_column = merge("nuslerp", base, models, nuslerp_flatten=False, nuslerp_row_wise=True)
    name = TENSORS[0]

    def alone(part: Any) -> torch.Tensor:
        return merge("nuslerp", one(part(base[name])), [one(part(m[name])) for m in models])["norm.weight"]

    for i in range(6):
        torch.testing.assert_close(by_row[name][i], alone(lambda t, i=i: t[i].tolist()), atol=1e-4, rtol=1e-4)
    for j in range(5):
        expected = alone(lambda t, j=j: t[:, j].tolist())
        torch.testing.assert_close(by_column[name][:, j], expected, atol=1e-4, rtol=1e-4)


def test_nuslerp_by_hand() -> None:
    merged = merge("nuslerp", one([1, 1]), [one([2, 1]), one([1, 2])])["norm.weight"]
    torch.testing.assert_close(merged, torch.tensor([1.0, 1.0]) + math.sqrt(0.5))
    # Weights that cancel have no share: halfway.
    cancelled = merge("nuslerp", one([1, 1]), [one([2, 1]), one([1, 2])], [{"weight": 1}, {"weight": -1}])
    torch.testing.assert_close(cancelled["norm.weight"], merged)


@given(seed=seeds, weights=st.lists(st.floats(0.1, 2), min_size=3, max_size=3), scope=scopes)
def test_multislerp_and_karcher_keep_the_mean_length(seed: int, weights: list[float], scope: str) -> None:
    models = [drawn(seed + i) for i in range(3)]
    parts = [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]
    spread = merge("multislerp", None, models, [{"weight": w} for w in weights], scope=scope)
    mean = merge("karcher", None, models, scope=scope)
    for names in parts:
        lengths = [float(torch.cat([m[n].flatten() for n in names]).norm()) for m in models]
        found = [float(torch.cat([merged[n].flatten() for n in names]).norm()) for merged in (spread, mean)]
        expected = sum(w * length for w, length in zip(weights, lengths, strict=True)) / sum(weights)
        assert found == pytest.approx([expected, sum(lengths) / 3], rel=1e-4)


def test_multislerp_by_hand() -> None:
    # Lengths 3 and 4 at right angles; the mean direction is the diagonal, the mean length 3.5.
    merged = merge("multislerp", None, [one([3, 0]), one([0, 4])])["norm.weight"]
    torch.testing.assert_close(merged, torch.full((2,), 3.5 * math.sqrt(0.5)))
    # Opposed directions have no mean; the weighted mean is left.
    assert merge("multislerp", None, [one([2, 0]), one([-4, 0])])["norm.weight"].tolist() == [-1, 0]
    with pytest.raises(InputError, match="add up to zero"):
        merge("multislerp", None, [one([3, 0]), one([0, 4])], [{"weight": 1}, {"weight": -1}])


@given(seed=seeds, count=st.integers(2, 6))
def test_the_steps_of_the_karcher_mean_end_where_the_logs_cancel(seed: int, count: int) -> None:
    vectors = torch.randn(count, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    factors = torch.tensor(karcher_factors((vectors @ vectors.T).numpy(), 200, 1e-12), dtype=torch.float64)
    mean = (factors @ vectors) / (factors @ vectors).norm()
    units = vectors / vectors.norm(dim=1, keepdim=True)
    cos = units @ mean
    logs = (cos.acos() / (1 - cos**2).sqrt()).unsqueeze(1) * (units - cos.unsqueeze(1) * mean)
    assert float(logs.mean(0).norm()) < 1e-6


@given(seed=seeds)
def test_the_karcher_mean_of_two_is_half_the_arc(seed: int) -> None:
    models = [drawn(seed), drawn(seed + 1)]
    models = [{n: t / t.norm() for n, t in model.items()} for model in models]
    assert_equal(merge("karcher", None, models), merge("slerp", None, models, t=0.5), 1e-4)


def test_karcher_leaves_out_what_has_no_direction() -> None:
    merged = merge("karcher", None, [one([2, 0]), one([0, 0]), one([0, 2])])["norm.weight"]
    torch.testing.assert_close(merged, torch.full((2,), math.sqrt(2)))
    assert merge("karcher", None, [one([2, 0]), one([-2, 0])])["norm.weight"].tolist() == [2, 0]


# ---------------------------------------------------------------------- checkpoints, layers, projection


@given(seed=seeds, decay=st.floats(0, 1), based=st.booleans())
def test_ema_is_the_recurrence(seed: int, decay: float, based: bool) -> None:
    base, models = drawn(seed), [drawn(seed + i) for i in (1, 2, 3)]
    slow, following = (base, models) if based else (models[0], models[1:])
    for fast in following:
        slow = {name: decay * slow[name] + (1 - decay) * fast[name] for name in slow}
    assert_equal(merge("ema", base if based else None, models, decay=decay), slow)


def test_ema_by_hand() -> None:
    assert merge("ema", one([8]), [one([0]), one([4])], decay=0.5)["norm.weight"].tolist() == [4.0]
    assert merge("ema", None, [one([8]), one([4])], decay=0.75)["norm.weight"].tolist() == [7.0]


def _shares(depth: int, **parameters: float) -> list[float]:
    given_values = {"bottom": 0.0, "top": 0.0, "transition": 0.0, "transition_weight": 0.5, **parameters}
    return [share_of_second(Site("w", "mlp", i, 0.0, depth), **given_values) for i in range(depth)]


def test_layer_swap_by_hand() -> None:
    assert _shares(8, bottom=2, top=1, transition=1) == [1, 1, 0.5, 0, 0, 0, 0.5, 1]
    assert _shares(8, bottom=0.25, top=0.125, transition=0.125) == [1, 1, 0.5, 0, 0, 0, 0.5, 1]
    assert _shares(4, bottom=2, top=2) == [1, 1, 1, 1]
    models = [{n: torch.full((2, 2), v) for n in TENSORS} for v in (0.0, 4.0)]
    merged = merge("layer_swap", None, models, bottom=1, top=0, transition=0, transition_weight=0.25)
    assert [float(merged[name][0, 0]) for name in TENSORS] == [4, 0, 0, 1]


@given(depth=st.integers(1, 40), bottom=st.integers(0, 20), top=st.integers(0, 20), transition=st.integers(0, 5))
def test_layer_swap_takes_as_many_layers_as_it_is_told(depth: int, bottom: int, top: int, transition: int) -> None:
    if bottom + top + 2 * transition > depth:
        with pytest.raises(InputError, match=f"of {depth}"):
            _shares(depth, bottom=bottom, top=top, transition=transition)
        return
    shares = _shares(depth, bottom=bottom, top=top, transition=transition)
    assert (shares.count(1), shares.count(0.5)) == (bottom + top, 2 * transition)


def test_layer_swap_refuses_parts_of_layers() -> None:
    with pytest.raises(InputError, match="top must be a whole number of layers"):
        _shares(8, top=1.5)


@pytest.mark.parametrize(
    ("bottom", "said"), [(5, "take 5 layers of 3"), (1.5, "bottom must be a whole number of layers")]
)
def test_layer_swap_refuses_wrong_counts_when_it_is_planned(bottom: float, said: str) -> None:
    sources = {name: TensorWeights(drawn(seed), name) for seed, name in enumerate("ab")}
    parameters = {"bottom": bottom, "top": 0, "transition": 0}
    with pytest.raises(InputError, match=said):
        plan_merge(Recipe(method="layer_swap", models=["a", "b"], parameters=parameters), sources)


@given(seed=seeds, alpha=st.floats(0, 1), scope=scopes)
def test_selekt_keeps_the_largest_changes_and_undoes_the_rest(seed: int, alpha: float, scope: str) -> None:
    base = drawn(seed)
    expert = added(base, drawn(seed + 1))
    merged = merge("selekt", base, [expert], alpha=alpha, scope=scope)
    for names in [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]:
        b, x, m = (torch.cat([t[n].flatten() for n in names]) for t in (base, expert, merged))
        kept = m != b
        assert int(kept.sum()) == (max(1, int(alpha * b.numel())) if alpha > 0 else 0)
        torch.testing.assert_close(m[kept], x[kept])
        if kept.any() and not kept.all():
            assert (x - b)[kept].abs().min() >= (x - b)[~kept].abs().max()


def test_selekt_by_hand() -> None:
    merged = merge("selekt", one([1, 1, 1, 1]), [one([2, 1.5, -3, 1])], alpha=0.5)["norm.weight"]
    assert merged.tolist() == [2, 1, -3, 1]
    # Five of a hundred entries would be none of ten: one is kept.
    assert merge("selekt", one([0, 0, 0]), [one([1, -2, 0.5])])["norm.weight"].tolist() == [0, -2, 0]
