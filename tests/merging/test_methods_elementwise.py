"""Methods that choose entries: Breadcrumbs, DELLA, SCE, Arcee Fusion, NearSwap, RAM. Properties first, then by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, assert_equal, drawn, merge, one

from genepool.kernels.selection import Selection, keep_count
from genepool.merging import parse_recipe
from genepool.merging.methods.arcee_fusion import divergences

PARAMETERS: dict[str, dict[str, Any]] = {
    "breadcrumbs": {"density": 0.4, "gamma": 0.2},
    "breadcrumbs_ties": {"density": 0.4, "gamma": 0.2, "rescale": "l1"},
    "della": {"density": 0.5, "epsilon": 0.3},
    "della_linear": {"density": 0.5, "rescale": "l1"},
    "sce": {"select_topk": 0.5},
    "nearswap": {"t": 0.05},
    "arcee_fusion": {},
    "ram": {"epsilon": 0.5},
    "ramplus_tl": {"epsilon": 0.5},
}
ONE_MODEL = ("nearswap", "arcee_fusion")
WITH_SCOPE = ("breadcrumbs", "breadcrumbs_ties", "ramplus_tl")
ZERO = {name: torch.zeros(6, 5) for name in TENSORS}
seeds = st.integers(0, 10_000)
methods = pytest.mark.parametrize("method", sorted(PARAMETERS))


def _merge(method: str, base: dict[str, torch.Tensor], models: list[Any], **changed: Any) -> dict[str, torch.Tensor]:
    return merge(method, base, models[:1] if method in ONE_MODEL else models, **PARAMETERS[method] | changed)


def _on_grid(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rounded to a coarse grid, so that sums and differences are exact."""
    return {name: torch.round(tensor * 64) / 64 for name, tensor in model.items()}


# ---------------------------------------------------------------------- properties of all


@methods
@given(seed=seeds)
def test_experts_equal_to_the_base_give_the_base(method: str, seed: int) -> None:
    base = drawn(seed)
    assert_equal(_merge(method, base, [base, base, base]), base, 0)


@methods
def test_all_zero_deltas_beside_others_spoil_nothing(method: str) -> None:
    # One tensor of the expert is the base's, computed through the method since the other model moves it.
    base = drawn(0)
    still = {name: tensor.clone() for name, tensor in base.items()}
    merged = _merge(method, base, [still, added(base, drawn(1))])
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())


@pytest.mark.parametrize("method", [m for m in sorted(PARAMETERS) if m not in ONE_MODEL and "della" not in m])
@given(seed=seeds)
def test_the_order_of_the_models_does_not_matter(method: str, seed: int) -> None:
    base = drawn(seed)
    models = [added(base, drawn(seed + i)) for i in (1, 2, 3)]
    assert_equal(_merge(method, base, models), _merge(method, base, models[::-1]))


@pytest.mark.parametrize("method", [m for m in sorted(PARAMETERS) if m != "arcee_fusion"])
@given(seed=seeds)
def test_moving_base_and_experts_together_moves_the_merge(method: str, seed: int) -> None:
    base, shift, *deltas = (_on_grid(drawn(seed + i)) for i in range(5))
    here = _merge(method, base, [added(base, d) for d in deltas])
    there = _merge(method, added(base, shift), [added(added(base, shift), d) for d in deltas])
    assert_equal(added(here, shift), there)


@pytest.mark.parametrize("method", [m for m in sorted(PARAMETERS) if m != "arcee_fusion"])
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_scaling_the_deltas_scales_the_merged_delta(method: str, seed: int, factor: float) -> None:
    models = [drawn(seed + i) for i in (1, 2)]
    scaled = [{n: t * factor for n, t in model.items()} for model in models]
    # Steps and thresholds in units of the weights scale with them.
    units = {name: PARAMETERS[method][name] * factor for name in ("t", "epsilon") if name in PARAMETERS[method]}
    changed = {} if method.startswith("della") else units
    expected = {name: value * factor for name, value in _merge(method, ZERO, models).items()}
    assert_equal(_merge(method, ZERO, scaled, **changed), expected, 1e-4)


@pytest.mark.parametrize(
    ("method", "scope"), [(m, None) for m in sorted(PARAMETERS)] + [(m, "model") for m in WITH_SCOPE]
)
def test_blocks_of_any_size_give_the_same(method: str, scope: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    base = drawn(0)
    models = [added(base, drawn(i)) for i in (1, 2, 3)]
    changed = {"scope": scope} if scope else {}
    whole = _merge(method, base, models, **changed)
    monkeypatch.setattr("genepool.merging.engine.BLOCK_ENTRIES", 7)
    assert_equal(_merge(method, base, models, **changed), whole, 1e-6)


@methods
def test_rows_can_be_read_by_themselves(method: str) -> None:
    from genepool.merging import Recipe, plan_merge
    from genepool.weights.in_memory import TensorWeights

    count = 1 if method in ONE_MODEL else 2
    sources = {name: TensorWeights(drawn(i), name) for i, name in enumerate(["base", "m1", "m2"][: count + 1])}
    listed = [{"model": name} for name in list(sources)[1:]]
    recipe = Recipe(method=method, base="base", models=listed, parameters=PARAMETERS[method])
    merged = plan_merge(recipe, sources).weights()
    for name in merged.names():
        assert torch.equal(merged.read_rows(name, 1, 4), merged.read(name)[1:4])


# ---------------------------------------------------------------------- Breadcrumbs


@given(
    seed=seeds, density=st.floats(0, 1), gamma=st.floats(0, 1), scope=st.sampled_from(["model", "tensor"]),
    method=st.sampled_from(["breadcrumbs", "breadcrumbs_ties"]),
)  # fmt: skip
def test_breadcrumbs_keep_the_middle(seed: int, density: float, gamma: float, scope: str, method: str) -> None:
    expert = drawn(seed)
    merged = merge(method, ZERO, [expert], density=density, gamma=gamma, scope=scope, **{"lambda": 1.0})
    parts = [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]
    for names in parts:
        before = torch.cat([expert[name].flatten() for name in names])
        after = torch.cat([merged[name].flatten() for name in names])
        kept = keep_count(density, before.numel())
        outliers = min(int(gamma * before.numel()), before.numel() - kept)
        order = before.abs().argsort(descending=True)
        expected = torch.zeros_like(before)
        expected[order[outliers : outliers + kept]] = before[order[outliers : outliers + kept]]
        torch.testing.assert_close(after, expected)


def test_breadcrumbs_by_hand() -> None:
    # A quarter are outliers: 9 and 8. Half of the rest of [9 -1 2 3 -4 0.5 8 1.5] kept: 3, -4, 2, 1.5.
    expert = one([9, -1, 2, 3, -4, 0.5, 8, 1.5])
    merged = merge("breadcrumbs", one([0] * 8), [expert], density=0.5, gamma=0.25, **{"lambda": 2.0})
    assert merged["norm.weight"].tolist() == [0, 0, 4, 6, -8, 0, 0, 3]
    other = one([0, 0, 2, 5, 4, 0, 0, 1])
    merged = merge("breadcrumbs_ties", one([0] * 8), [expert, other], density=0.5, gamma=0.25)
    # Of the other 5 and 4 are outliers and all of 2, 1, 0 ... are kept, zeros taking no part.
    assert merged["norm.weight"].tolist() == [0, 0, 2, 3, -4, 0, 0, 1.25]


def test_breadcrumbs_of_equal_entries_keep_as_many_as_they_should() -> None:
    merged = merge("breadcrumbs", one([0] * 4), [one([1, -1, 1, -1])], density=0.5, gamma=0.25, **{"lambda": 1.0})
    # The first is the outlier, the next two are the half.
    assert merged["norm.weight"].tolist() == [0, -1, 1, 0]


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60), data=st.data()
)
def test_several_selections_in_the_same_passes_are_exact(values: list[float], data: st.DataObject) -> None:
    ks = data.draw(st.lists(st.integers(0, len(values)), max_size=4))
    cut = data.draw(st.integers(0, len(values)))
    vector = torch.tensor(values, dtype=torch.float32)
    selections = Selection(ks)
    for number in range(selections.passes):
        for part in (vector[cut:], vector[:cut]):
            counts = selections.begin(number)
            selections.observe(number, part, counts)
            selections.fold(counts)
        selections.finish(number)
    in_order = sorted(vector.abs().tolist(), reverse=True)
    assert selections.values == [in_order[k - 1] if k else math.inf for k in ks]


# ---------------------------------------------------------------------- DELLA


@given(
    seed=seeds, rescale=st.sampled_from(["density", "l1", "none"]), method=st.sampled_from(["della", "della_linear"])
)
def test_della_divides_what_it_keeps_by_its_own_probability(seed: int, rescale: str, method: str) -> None:
    expert = drawn(seed)
    merged = merge(
        method, ZERO, [expert], seed=seed, density=0.6, epsilon=0.2, rescale=rescale, **{"lambda": 1.0}
    )  # fmt: skip
    for name in TENSORS:
        kept = merged[name] != 0
        if not kept.any():
            continue
        ranks = expert[name].abs().argsort(dim=1).argsort(dim=1)
        expected = {
            "density": 1 / (0.4 + 0.4 * ranks / 4),
            "none": torch.ones(6, 5),
            "l1": torch.full((6, 5), float(expert[name].abs().sum() / expert[name][kept].abs().sum())),
        }[rescale]
        torch.testing.assert_close((merged[name] / expert[name])[kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_della_keeps_large_entries_more_often_and_is_unbiased() -> None:
    # 40,000 rows of the magnitudes 1 to 5: five probabilities, each told within half a hundredth.
    row = torch.tensor([3.0, -1.0, 5.0, 2.0, -4.0])
    expert = {"up_proj.weight": row.repeat(40_000, 1)}
    base = {"up_proj.weight": torch.zeros(40_000, 5)}
    merged = merge("della_linear", base, [expert], density=0.5, epsilon=0.2, **{"lambda": 1.0})["up_proj.weight"]
    shares = (merged != 0).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.7, 0.4, 0.6]), atol=0.015, rtol=0)
    torch.testing.assert_close(merged.mean(0), row, atol=0, rtol=0.05)


@pytest.mark.parametrize(("density", "mean"), [(1.0, 1.0), (0.0, 0.0), (0.95, 0.95)])
def test_della_narrows_a_window_that_leaves_the_unit_interval(density: float, mean: float) -> None:
    expert = {"up_proj.weight": torch.randn(2000, 50, generator=torch.Generator().manual_seed(0))}
    base = {"up_proj.weight": torch.zeros(2000, 50)}
    merged = merge("della_linear", base, [expert], density=density, epsilon=0.3)["up_proj.weight"]
    assert float((merged != 0).float().mean()) == pytest.approx(mean, abs=0.004 if 0 < mean < 1 else 0)


def test_della_keeps_an_entry_alone_in_its_row_with_the_density() -> None:
    expert, base = {"w.weight": torch.ones(100_000, 1)}, {"w.weight": torch.zeros(100_000, 1)}
    merged = merge("della", base, [expert], density=0.3, epsilon=0.2, **{"lambda": 1.0})["w.weight"]
    assert float((merged != 0).float().mean()) == pytest.approx(0.3, abs=0.007)
    assert float(merged.max()) == pytest.approx(1 / 0.3)


def test_della_under_a_recipe_of_mergekits_gives_the_norm_back() -> None:
    models = [{"model": "a", "parameters": {"weight": 1.0, "density": 0.5}}]
    recipe = parse_recipe({"merge_method": "della_linear", "base_model": "base", "models": models, "dtype": "float32"})
    assert recipe.parameters["rescale"] == "l1"
    assert recipe.parameters["epsilon"] == 0.15
    kept = parse_recipe(
        {"merge_method": "della", "base_model": "base", "models": models, "parameters": {"rescale": False}}
    )
    assert kept.parameters["rescale"] == "none"
    assert kept.parameters["normalize"] is True


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_can_trim_row_by_row_as_the_authors_do(method: str) -> None:
    """Of each row of eight the largest goes, the next two stay; of equal magnitudes the first count as larger."""
    rows = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, -9, 0, 4, 0, 5]])
    merged = merge(
        method, {"x.weight": torch.zeros(3, 8)}, [{"x.weight": rows}], scope="row", density=0.25, gamma=0.125,
        **{"lambda": 1.0},
    )["x.weight"]  # fmt: skip
    expected = torch.zeros(3, 8)
    expected[0, 1:3], expected[1, 1:3], expected[2, 5], expected[2, 7] = rows[0, 1:3], rows[1, 1:3], 4, 5
    assert torch.equal(merged, expected)


# ---------------------------------------------------------------------- SCE


def test_sce_by_hand() -> None:
    # Three entries vary, by 5, 4 and 1; of these the share .7 is two. There the squares are 9 + 1 and 4 + 9.
    models = [one([3, 1, 5, 1]), one([-2, -3, 5, 2])]
    merged = merge("sce", one([0, 0, 0, 0]), models, select_topk=0.7)
    # Plain sums: 1, so the first model's 3 stays alone; -2, so the second's -3 does.
    assert merged["norm.weight"].tolist() == [3, -3, 0, 0]
    everything = merge("sce", one([0, 0, 0, 0]), models, select_topk=1.0)["norm.weight"]
    a, b = 36 / 78, 42 / 78
    torch.testing.assert_close(everything, torch.tensor([3, -3, 5, a + 2 * b]))


def test_sce_can_merge_all_by_the_weights_of_the_selected() -> None:
    """The authors' code: the selected entries decide on the weights, 10 to 13 here, and all entries are merged."""
    models = [one([3, 1, 5, 1]), one([-2, -3, 5, 2])]
    merged = merge("sce", one([0, 0, 0, 0]), models, select_topk=0.7, merges="all")["norm.weight"]
    a, b = 10 / 23, 13 / 23
    torch.testing.assert_close(merged, torch.tensor([3, -3, 5, a + 2 * b]))


def test_sce_selects_no_more_than_its_share_where_entries_vary_alike() -> None:
    """On bfloat16 checkpoints many entries vary alike; of ten the share 0.3 is three, the first of them."""
    models = [one([1.0] * 10), one([-1.0] * 10)]
    merged = merge("sce", one([0.0] * 10), models, select_topk=0.3)["norm.weight"]
    assert merged.tolist() == [1.0] * 3 + [0.0] * 7


def test_sce_weighs_alike_below_a_limit() -> None:
    models = [one([1e-4, 3e-4]), one([2e-4, 1e-4])]
    alike = merge("sce", one([0, 0]), models, select_topk=1, alike_below=1e-6)["norm.weight"]
    torch.testing.assert_close(alike, torch.tensor([1.5e-4, 2e-4]))
    by_squares = merge("sce", one([0, 0]), models, select_topk=1)["norm.weight"]
    a, b = 10 / 15, 5 / 15
    torch.testing.assert_close(by_squares, torch.tensor([1e-4 * a + 2e-4 * b, 3e-4 * a + 1e-4 * b]))


@given(seed=seeds)
def test_sce_of_all_entries_of_agreeing_models_lies_between_them(seed: int) -> None:
    models = [{n: t.abs() for n, t in drawn(seed + i).items()} for i in (1, 2)]
    merged = merge("sce", ZERO, models, select_topk=1.0)
    for name in TENSORS:
        a, b = (model[name] for model in models)
        assert (merged[name] >= torch.minimum(a, b) - 1e-6).all()
        assert (merged[name] <= torch.maximum(a, b) + 1e-6).all()


def test_sce_selects_nothing_where_models_do_not_differ() -> None:
    same = one([1, 2, 3, 4])
    assert merge("sce", one([0, 0, 0, 0]), [same, same], select_topk=0.5)["norm.weight"].tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------------- Arcee Fusion


@given(seed=seeds)
def test_fusion_takes_whole_entries_and_only_the_important(seed: int) -> None:
    base, model = drawn(seed), drawn(seed + 1)
    merged = merge("arcee_fusion", base, [model])
    for name in TENSORS:
        taken = merged[name] == model[name]
        assert torch.equal(merged[name][~taken], base[name][~taken])
        p, q = model[name].double().softmax(-1), base[name].double().softmax(-1)
        importance = (model[name] - base[name]).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
        in_order = importance.flatten().sort().values
        low, median, high = (in_order[int(share * 29)] for share in (0.25, 0.5, 0.75))
        limit = median + 1.5 * (high - low)
        # An importance within rounding of the limit may fall on either side.
        assert (importance[taken] >= limit * (1 - 1e-5)).all()
        assert (importance[~taken] <= limit * (1 + 1e-5)).all()


def test_divergences_of_rows_that_barely_moved_are_not_noise() -> None:
    # Half of a flat row raised by c: to leading order c^2 / 8, far below the last digit of a float32 sum.
    base, step = torch.zeros(2, 64), 1e-4
    model = base.clone()
    model[1, :32] += step
    still, moved = divergences(model, base).flatten().tolist()
    assert still == 0
    assert moved == pytest.approx(step**2 / 8, rel=1e-3)


# ---------------------------------------------------------------------- NearSwap


@given(seed=seeds, t=st.floats(0, 3))
def test_nearswap_steps_no_further_than_t_and_never_past_the_model(seed: int, t: float) -> None:
    model = drawn(seed)
    merged = merge("nearswap", ZERO, [model], t=t)
    for name in TENSORS:
        share = (t / model[name].abs().clamp_min(1e-6)).clamp(0, 1)
        torch.testing.assert_close(merged[name], share * model[name])


def test_nearswap_by_hand() -> None:
    merged = merge("nearswap", one([1, 1, 1]), [one([1.25, 3, -3])], t=0.5)
    assert merged["norm.weight"].tolist() == [1.25, 1.5, 0.5]


# ---------------------------------------------------------------------- RAM


def test_ram_by_hand() -> None:
    # Alone, shared, below the threshold, nobody.
    models = [one([4, 2, 0.1, 0]), one([0, 6, 3, 0])]
    assert merge("ram", one([0, 0, 0, 0]), models, epsilon=0.5)["norm.weight"].tolist() == [4, 4, 3, 0]
    # Each has one entry alone and one shared: a ratio of 1, of which 0.5 count.
    amplified = merge("ramplus_tl", one([0, 0, 0, 0]), models, epsilon=0.5, r=0.5, alpha=0.5)
    assert amplified["norm.weight"].tolist() == [5, 4, 3.75, 0]


def test_ram_counts_within_tensors_or_over_the_whole_vector() -> None:
    zero = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    first = {"a.weight": torch.tensor([1.0, 1.0]), "b.weight": torch.tensor([1.0, 1.0])}
    second = {"a.weight": torch.tensor([0.0, 3.0]), "b.weight": torch.tensor([3.0, 3.0])}
    each = merge("ramplus_tl", zero, [first, second], r=1.0, alpha=10.0)
    assert each["a.weight"].tolist() == [2, 2]
    whole = merge("ramplus_tl", zero, [first, second], r=1.0, alpha=10.0, scope="model")
    assert whole["a.weight"].tolist() == [4, 2]
    assert whole["b.weight"].tolist() == [2, 2]


@given(seed=seeds)
def test_ram_of_one_model_is_the_model_where_it_moved(seed: int) -> None:
    model = drawn(seed)
    for method in ("ram", "ramplus_tl"):
        merged = merge(method, ZERO, [model], epsilon=0.3)
        for name in TENSORS:
            assert torch.equal(merged[name], torch.where(model[name].abs() > 0.3, model[name], 0.0))
