"""Methods that weigh whole task vectors against each other: PCB, consensus, localise and stitch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, assert_equal, drawn, merge, one

from genepool.kernels import agreement, balance, competition, consensus, count_scores, stitch
from genepool.kernels.selection import Selection
from genepool.weights import TensorWeights

METHODS = ["pcb", "consensus", "localize_stitch"]
SCOPES = ["model", "tensor"]
seeds = st.integers(0, 10_000)


def _scoped(method: str, scope: str) -> dict[str, Any]:
    return {} if method == "consensus" else {"scope": scope}


def _moved(base: dict[str, torch.Tensor], seed: int, count: int = 3) -> list[dict[str, torch.Tensor]]:
    return [added(base, drawn(seed + i, 0.1)) for i in range(1, count + 1)]


# ---------------------------------------------------------------------- properties


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_models_equal_to_the_base_give_the_base(method: str, scope: str, seed: int) -> None:
    base = drawn(seed)
    assert_equal(merge(method, base, [base, base], **_scoped(method, scope)), base, 0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_the_order_of_models_is_nothing(method: str, scope: str, seed: int) -> None:
    base = drawn(seed)
    models = _moved(base, seed)
    # Scores near the edge of their share round differently when the sum is taken in another order.
    assert_equal(
        merge(method, base, models, **_scoped(method, scope)),
        merge(method, base, models[::-1], **_scoped(method, scope)),
        1e-4,
    )


@pytest.mark.parametrize("method", ["consensus", "localize_stitch"])
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_scaled_deltas_give_a_scaled_change(method: str, seed: int, factor: float) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    models = [drawn(seed + 1), drawn(seed + 2)]
    scaled = [{n: t * factor for n, t in model.items()} for model in models]
    expected = {name: value * factor for name, value in merge(method, zero, models).items()}
    assert_equal(merge(method, zero, scaled), expected, 0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_any_size_give_the_same(method: str, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = drawn(5)
    models = _moved(base, 6)
    whole = merge(method, base, models, **_scoped(method, scope))
    monkeypatch.setattr("genepool.merging.engine.BLOCK_ENTRIES", 7)
    assert_equal(merge(method, base, models, **_scoped(method, scope)), whole, 0)


def test_pcb_clamps_at_the_places_of_the_authors() -> None:
    """Half of a share of 5 entries is no whole entry: nothing is cut below, the largest is cut to the second above."""
    merged = merge("pcb", one([0] * 5), [one([1, 2, 3, 4, 9])], ratio=1.0, clip=0.1, **{"lambda": 1.0})
    assert merged["norm.weight"].tolist() == pytest.approx([0, 2, 3, 4, 4])


@pytest.mark.slow
@given(seed=seeds, scope=st.sampled_from(SCOPES), ratio=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_pcb_is_the_authors_procedure(seed: int, scope: str, ratio: float) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    models = [drawn(seed + i, 0.3) for i in range(3)]
    merged = merge("pcb", zero, models, scope=scope, ratio=ratio, clip=0.02)
    for names in [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]:
        vectors = torch.stack([torch.cat([model[n].flatten() for n in names]) for model in models]).double()
        expected = _pcb_by_sorting(vectors, ratio, 0.02)
        ours = torch.cat([merged[n].flatten() for n in names]).double() / 1.2
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def _pcb_by_sorting(vectors: torch.Tensor, ratio: float, clip: float) -> torch.Tensor:
    models, numel = vectors.shape
    # Where the share is no whole number the upper end loses one entry more: the authors' `int(d * (1 - share) - 1)`.
    low, high = int(clip * numel), int(numel * (1 - clip) - 1)
    ordered = vectors.abs().sort(dim=1).values
    sizes = vectors.abs().clamp(ordered[:, low, None], ordered[:, high, None])
    shares = (sizes - ordered[:, low, None]) / (ordered[:, high, None] - ordered[:, low, None])
    scores = torch.exp(models * shares**2) * torch.tanh(vectors * vectors.sum(0))
    kept = numel - int(numel * (1 - ratio))
    if kept == 0:
        return torch.zeros(numel, dtype=torch.float64)
    top = scores.sort(dim=1).values
    weights = (scores - top[:, numel - kept, None]).clamp_min(0) / (top[:, -1:] - top[:, numel - kept, None])
    return (vectors.sign() * sizes * weights).sum(0) / weights.sum(0).clamp_min(1e-12)


@given(seed=seeds, scope=st.sampled_from(SCOPES), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_one_localised_model_keeps_its_largest_entries(seed: int, scope: str, density: float) -> None:
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    expert = drawn(seed)
    merged = merge("localize_stitch", zero, [expert], density=density, scope=scope)
    for names in [list(TENSORS)] if scope == "model" else [[name] for name in TENSORS]:
        before = torch.cat([expert[name].flatten() for name in names])
        after = torch.cat([merged[name].flatten() for name in names])
        kept = after != 0
        assert int(kept.sum()) == int(density * before.numel())
        assert torch.equal(after[kept], before[kept])
        if kept.any() and not kept.all():
            assert before[kept].abs().min() >= before[~kept].abs().max()


@given(seed=seeds)
def test_consensus_that_needs_no_mask_is_task_arithmetic(seed: int) -> None:
    base = drawn(seed)
    models, weights = _moved(base, seed), [{"weight": w} for w in (1.0, 0.5, -2.0)]
    assert_equal(merge("consensus", base, models, weights, needed=0), merge("task_arithmetic", base, models, weights))


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_more_than_all_masks_or_no_share_gives_the_base(method: str, seed: int) -> None:
    base = drawn(seed)
    nothing = {"consensus": {"needed": 4}, "pcb": {"ratio": 0.0}, "localize_stitch": {"density": 0.0}}[method]
    assert_equal(merge(method, base, _moved(base, seed), **nothing), base, 0)


# ---------------------------------------------------------------------- worked out by hand


def test_consensus_by_hand() -> None:
    # Sums 2 3 1 0. Masks at 0.5: |t| > 0.5 |other|. Entry 1: both; 2: only the first (3 > 0, 0 > 1.5 not);
    # 3: 2 > 0.5 and 1 > 1 not; 4: opposed, both.
    models = [one([1, 3, 2, 1]), one([1, 0, -1, -1])]
    merged = merge("consensus", one([0, 0, 0, 0]), models, threshold=0.5, **{"lambda": 1.0})
    assert merged["norm.weight"].tolist() == [2, 0, 0, 0]
    selfish_too = merge("consensus", one([0, 0, 0, 0]), models, threshold=0.5, needed=1, **{"lambda": 1.0})
    assert selfish_too["norm.weight"].tolist() == [2, 3, 1, 0]


def test_localize_stitch_by_hand() -> None:
    # Halves: 4 and 3 of the first; 5 and -6 of the second; they overlap in the last entry.
    models = [one([4, -1, 2, 3]), one([-2, 5, 1, -6])]
    merged = merge("localize_stitch", one([0, 0, 0, 0]), models, density=0.5)
    assert merged["norm.weight"].tolist() == [4.0, 5.0, 0.0, -1.5]


def test_pcb_by_hand() -> None:
    # One model, no clamping, half kept: scores rise with the magnitudes 1 2 3 4; the third lies at the edge and weighs
    # nothing, so the fourth alone is left.
    merged = merge("pcb", one([0, 0, 0, 0]), [one([1, 2, 3, 4])], ratio=0.5, clip=0.0, **{"lambda": 1.0})
    assert merged["norm.weight"].tolist() == [0, 0, 0, 4]
    # Two models: shares 0 1/3 1 and 0 1 0 of their magnitudes.
    a, b = [1.0, 2.0, 4.0], [1.0, 3.0, 1.0]
    merged = merge("pcb", one([0, 0, 0]), [one(a), one(b)], ratio=1.0, clip=0.0, **{"lambda": 1.0})["norm.weight"]
    first = [math.exp(2 * m * m) * math.tanh(x * (x + y)) for m, x, y in zip((0, 1 / 3, 1), a, b, strict=True)]
    second = [math.exp(2 * m * m) * math.tanh(y * (x + y)) for m, x, y in zip((0, 1, 0), a, b, strict=True)]
    weights = [[(s - min(own)) / (max(own) - min(own)) for s in own] for own in (first, second)]
    for i in range(3):
        total = weights[0][i] + weights[1][i]
        expected = (weights[0][i] * a[i] + weights[1][i] * b[i]) / total if total else 0.0
        assert float(merged[i]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
def test_pcb_beside_a_model_that_did_not_move_or_one_opposed(scope: str) -> None:
    base = drawn(0)
    expert = added(base, drawn(1))
    alone = merge("pcb", base, [expert, base], scope=scope)
    assert all(torch.isfinite(t).all() for t in alone.values())
    assert any(not torch.equal(alone[name], base[name]) for name in TENSORS)
    zero = {name: torch.zeros(6, 5) for name in TENSORS}
    opposed = {name: -t for name, t in drawn(1).items()}
    # Every sum vanishes, so no entry beats another.
    assert_equal(merge("pcb", zero, [drawn(1), opposed], scope=scope), zero, 0)


# ---------------------------------------------------------------------- kernels


@given(seed=seeds, models=st.integers(1, 5), entries=st.integers(0, 40), spread=st.sampled_from([1e-3, 1.0, 30.0]))
def test_compiled_loops_give_the_formulas_bits(seed: int, models: int, entries: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # A coarse grid, so that zeros, ties and sums that vanish are met.
    vectors = torch.round(torch.randn((models, entries), generator=generator) * 8) / 8 * spread
    low, high = [0.25 * spread] * models, [1.5 * spread] * (models - 1) + [0.25 * spread]
    factors, thresholds = [1.0, 0.5, -1.0, 2.0, 0.1][:models], [0.2, 0.3, 0.4, 0.5, 0.6][:models]
    assert torch.equal(balance(vectors, low, high, [0.0] * models, [0.1] * models), competition._balance_formula(
        vectors, low, high, [0.0] * models, [0.1] * models
    ))  # fmt: skip
    expected = agreement._consensus_formula(vectors, factors, thresholds, 2)
    assert torch.equal(consensus(vectors, factors, thresholds, 2), expected)
    assert torch.equal(stitch(vectors, factors, low), agreement._stitch_formula(vectors, factors, low))
    counts = [np.zeros((1, 1 << 16), np.int64) for _ in range(models)]
    count_scores(vectors, low, high, counts)
    scores = competition._scores_formula(vectors, low, high)
    assert torch.equal(competition.scores(vectors, low, high), scores)
    for own, counted in zip(scores, counts, strict=True):
        upper = (own.view(torch.int32) >> 16) & 0xFFFF
        assert torch.equal(torch.from_numpy(counted[0]), torch.bincount(upper, minlength=1 << 16))


@given(seed=seeds, spread=st.sampled_from([1e-4, 0.1, 1.0, 5.0]))
def test_scores_are_what_the_paper_says(seed: int, spread: float) -> None:
    vectors = torch.randn((4, 50), generator=torch.Generator().manual_seed(seed)) * spread
    exact, low, high = vectors.double(), 0.1 * spread, 2.0 * spread
    shares = (exact.abs().clamp(low, high) - low) / (high - low)
    expected = torch.exp(4 * (shares**2 - 1)) * torch.tanh(exact * vectors.sum(0).double())
    ours = competition.scores(vectors, [low] * 4, [high] * 4).double()
    torch.testing.assert_close(ours, expected, atol=0, rtol=1e-5)


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=100),
    data=st.data(),
)
def test_signed_selection_is_exact(values: list[float], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=3))
    bits = torch.tensor(values, dtype=torch.float32).view(torch.int32)
    upper, lower = (bits >> 16) & 0xFFFF, bits & 0xFFFF
    selection = Selection(ranks, signed=True)
    counts = selection.begin(0)
    counts[0] += torch.bincount(upper, minlength=1 << 16).numpy()
    selection.fold(counts)
    selection.finish(0)
    counts = selection.begin(1)
    for row, bucket in zip(counts, selection.buckets, strict=True):
        row += torch.bincount(lower[upper == bucket], minlength=1 << 16).numpy()
    selection.fold(counts)
    selection.finish(1)
    ordered = sorted(values, reverse=True)
    assert selection.values == [ordered[rank - 1] for rank in ranks]


def test_a_block_of_the_base_is_read_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = TensorWeights.read_rows

    def counted(self: TensorWeights, name: str, start: int, stop: int) -> torch.Tensor:
        read.append(self.name)
        return original(self, name, start, stop)

    monkeypatch.setattr(TensorWeights, "read_rows", counted)
    base = one([1, 2, 3])
    assert_equal(merge("consensus", base, [one([2, 2, 3]), one([1, 5, 3]), one([0, 0, 0])], needed=9), base, 0)
    assert sorted(read) == ["base", "m0", "m1", "m2"]


# ---------------------------------------------------------------------- shares that are kept exactly


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.02, 0.9),
    gamma=st.sampled_from([0.0, 0.05, 0.3]),
    scope=st.sampled_from(["tensor", "model"]),
)
def test_ties_do_not_inflate_the_share_that_is_kept(seed: int, share: float, gamma: float, scope: str) -> None:
    """Changes of three magnitudes, as those of a bfloat16 checkpoint nearly are: the count is that of the share."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (7, 30), "b.weight": (5, 11), "norm.weight": (16,)}
    zero = {name: torch.zeros(shape) for name, shape in shapes.items()}
    model = {
        name: torch.randint(1, 4, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator).sub(0.5)
        for name, shape in shapes.items()
    }
    groups = [list(shapes)] if scope == "model" else [[name] for name in shapes]
    calls = {
        "selekt": {"alpha": share},
        "localize_stitch": {"density": share},
        "breadcrumbs": {"density": share, "gamma": gamma, "lambda": 1.0},
        "breadcrumbs_ties": {"density": share, "gamma": gamma, "lambda": 1.0},
    }
    for method, parameters in calls.items():
        merged = merge(method, zero, [model], scope=scope, **parameters)
        for names in groups:
            flat = torch.cat([model[name].flatten() for name in names])
            found = torch.cat([merged[name].flatten() for name in names])
            kept = max(1, int(share * flat.numel()))
            first = min(int(gamma * flat.numel()), flat.numel() - kept) if "breadcrumbs" in method else 0
            # Of equals the first by place are the larger.
            order = flat.abs().argsort(descending=True, stable=True)[first : first + kept]
            expected = torch.zeros_like(flat).index_copy_(0, order, flat[order])
            assert torch.equal(found, expected), method
