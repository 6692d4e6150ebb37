"""Kernels of ranks, trimmed sums and overlaps: the compiled loop and the formula give the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool import kernels
from genepool.kernels import compiled_ranks, election, overlap, ranks, variance

seeds = st.integers(0, 10_000)


def _vectors(seed: int, *shape: int) -> torch.Tensor:
    """Values with ties and exact zeros, as bfloat16 checkpoints give them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator).bfloat16().float()
    return values * (torch.rand(*shape, generator=generator) < 0.7)


@given(seed=seeds, rows=st.integers(0, 4), columns=st.integers(0, 90), spread=st.sampled_from([0.0, 1.0, 12.0, 30.0]))
def test_compiled_ranks_are_those_of_the_formula(seed: int, rows: int, columns: int, spread: float) -> None:
    values = _vectors(seed, rows, columns)
    values = values.sign() * (values.abs().log() * spread).exp().nan_to_num(0.0, posinf=3e38)
    assert torch.equal(kernels.row_ranks(values), ranks._formula(values))


@given(seed=seeds, columns=st.integers(2, 60))
def test_ranks_are_spread_evenly_and_follow_the_magnitude(seed: int, columns: int) -> None:
    values = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    found = kernels.row_ranks(values)
    torch.testing.assert_close(found.sort(dim=1).values, torch.linspace(0, 1, columns).expand(3, -1))
    assert torch.equal(found.argsort(dim=1), values.abs().argsort(dim=1))


def test_ranks_by_hand() -> None:
    rows = torch.tensor([[3.0, -1.0, 2.0, -2.0, 0.0], [0.0, -0.0, 0.0, 0.0, 0.0]])
    expected = [[1.0, 0.25, 0.625, 0.625, 0.0], [0.5] * 5]
    assert kernels.row_ranks(rows).tolist() == expected
    assert kernels.row_ranks(torch.ones(2, 1)).tolist() == [[0.5], [0.5]]


@given(
    seed=seeds,
    shape=st.sampled_from([(0, 5), (3, 1), (2, 2), (4, 33), (2, 700)]),
    offset=st.integers(0, 2**33),
    window=st.sampled_from([(0.0, 0.4), (0.3, 0.3), (0.43, 0.57), (0.6, 1.0)]),
    rescale=st.booleans(),
    kind=st.sampled_from(["any", "one magnitude", "mostly zeros", "bfloat16", "uneven"]),
)
def test_what_is_dropped_by_rank_is_what_the_formula_drops(
    seed: int, shape: tuple[int, int], offset: int, window: tuple[float, float], rescale: bool, kind: str
) -> None:
    values = _vectors(seed, *shape)
    if kind == "one magnitude":
        values = values.sign() + 1e-5 * values
    elif kind == "mostly zeros":
        values = torch.where(values > 1, values, 0.0)
    elif kind == "bfloat16":
        # Few magnitudes, each many times.
        values = values.bfloat16().float()
    elif kind == "uneven":
        # Some entries are far smaller than the largest of their row, and some are subnormal.
        values = values * torch.tensor([1.0, 2.0**-9, 2.0**-140]).repeat(values.shape[1])[: values.shape[1]]
    expected = values.clone()
    draws = kernels.uniform(values.numel(), seed, offset)
    ranks._drop_formula(expected, *window, draws, rescale)
    kernels.drop_by_rank(values, *window, seed, offset, rescale=rescale)
    assert torch.equal(values, expected)


def test_rows_that_bounds_do_not_decide_are_sorted_and_zeros_not_looked_at() -> None:
    """Counting takes as many steps as the row is long, for each entry of it."""

    def decided(row: np.ndarray[Any, Any]) -> bool:
        size = row.size
        draws = np.random.default_rng(0).random(size, dtype=np.float32)
        keys, buckets, unsure = (np.empty(size, np.uint32) for _ in range(3))
        counts, bounds = np.empty((2, 640), np.int32), [np.empty(640, np.float32) for _ in range(2)]
        limits, mixed = (np.float32(0.45), np.float32(0.1)), np.empty(640, np.uint8)
        room: list[Any] = [keys, buckets, counts, *bounds, mixed, unsure]
        room += [np.empty(size, np.float32) for _ in range(2)]
        return bool(compiled_ranks._drop_row(row, draws, *limits, *room))

    normal = np.random.default_rng(1).standard_normal(4096).astype(np.float32)
    assert decided(normal.copy())
    # One magnitude is one rank; magnitudes that differ little are many in one bucket.
    assert decided(np.sign(normal))
    assert not decided(np.sign(normal) + np.float32(1e-5) * normal)
    assert decided(np.where(normal > 1.5, normal, np.float32(0)))


def test_rows_of_differences_of_bfloat16_are_ranked_without_sorting() -> None:
    def ranked(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        size, fine = row.size, compiled_ranks._FINE_BUCKETS
        room: list[Any] = [np.empty(size, np.uint32) for _ in range(3)]
        room += [np.empty((3, fine), np.int32), np.empty(fine, np.float32)]
        room += [np.empty(fine, np.int64) for _ in range(2)]
        probabilities = np.empty(size, np.float32)
        room += [np.empty(size // 8 + 1, np.uint64), probabilities]
        found = compiled_ranks._rank_by_buckets(row, np.float32(0.25), np.float32(0.5), *room)
        return probabilities if found else None

    random = torch.Generator().manual_seed(0)
    base, change = 0.3 * torch.randn(4096, generator=random), 0.015 * torch.randn(4096, generator=random)
    row = (base + change).bfloat16().float() - base.bfloat16().float()
    found = ranked(row.numpy())
    assert found is not None
    expected = kernels.row_ranks(row[None])[0].numpy() * np.float32(0.5) + np.float32(0.25)
    assert np.array_equal(found, expected)
    # Most entries of float32 have lower bits, and many entries far below the largest would share a bucket.
    assert ranked(change.numpy()) is None
    assert ranked(np.where(np.arange(4096) < 100, row.numpy() * np.float32(1e-9), row.numpy())) is None
    assert ranked(np.zeros(4096, np.float32)) is not None


@given(seed=seeds, models=st.integers(1, 4), normalize=st.booleans(), weighted_votes=st.booleans())
def test_compiled_sums_within_limits_are_those_of_the_formula(
    seed: int, models: int, normalize: bool, weighted_votes: bool
) -> None:
    vectors = _vectors(seed, models, 5, 4)
    numbers = torch.rand(4, models, generator=torch.Generator().manual_seed(seed)).tolist()
    weights, low, high, votes = numbers[0], numbers[1], [1 + x for x in numbers[2]], numbers[3]
    merged = kernels.trimmed_sum(vectors, weights, thresholds=low, ceilings=high)
    torch.testing.assert_close(merged, election._sum_formula(vectors, weights, low, high), rtol=0, atol=0)
    given_votes = votes if weighted_votes else None
    merged, balance = kernels.elect(
        vectors, weights, votes=given_votes, normalize=normalize, thresholds=low, ceilings=high
    )
    expected, expected_balance = election._formula(vectors, weights, weights, low, 1.0, normalize, high, given_votes)
    # Weights add up as float32 in the loop and round once in the formula.
    torch.testing.assert_close(merged, expected, rtol=3e-7, atol=0)
    assert balance == expected_balance
    factors = votes if weighted_votes else weights
    assert kernels.balance_of_votes(vectors, factors, thresholds=low, ceilings=high) == balance


@given(seed=seeds, models=st.integers(1, 4), epsilon=st.sampled_from([0.0, 0.1, 0.5]))
def test_compiled_overlaps_are_those_of_the_formula(seed: int, models: int, epsilon: float) -> None:
    vectors = _vectors(seed, models, 6, 5)
    factors = torch.rand(models, generator=torch.Generator().manual_seed(seed)).tolist()
    counts = torch.from_numpy(kernels.overlap_counts(vectors, epsilon))
    assert torch.equal(counts, overlap._counts_formula(vectors, epsilon))
    assert torch.equal(counts.sum(1), (vectors.abs() > torch.tensor(epsilon)).sum((1, 2)))
    merged = kernels.overlap_mean(vectors, epsilon, factors)
    torch.testing.assert_close(merged, overlap._mean_formula(vectors, epsilon, factors), rtol=0, atol=0)


@given(seed=seeds, models=st.integers(1, 4), threshold=st.sampled_from([0.0, 0.3, float("inf")]))
def test_compiled_variances_are_those_of_the_formula(seed: int, models: int, threshold: float) -> None:
    vectors = _vectors(seed, models, 6, 5)
    found = kernels.variances(vectors)
    torch.testing.assert_close(found, variance._formula(vectors), rtol=0, atol=0)
    torch.testing.assert_close(found, vectors.var(0, correction=0) * models, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kernels.squares(vectors), (vectors.double() ** 2).sum((1, 2)), rtol=1e-12)
    left = vectors.clone()
    kernels.keep_largest(left, found, threshold)
    assert torch.equal(left, torch.where(found < threshold, 0.0, vectors))
