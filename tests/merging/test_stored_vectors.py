"""Loops from bits to bits: each gives the bits of the kernels that are given float32 vectors, step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool import kernels
from genepool.kernels import competition, compiled
from genepool.kernels.brackets import Brackets
from genepool.kernels.kept_marks import KeptMarks
from genepool.kernels.stored import NotFinite, StoredVectors, no_limits
from genepool.kernels.sums import sum_bits
from genepool.kernels.tie_cut import CUT, DROPPED, KEPT, TieCut

seeds = st.integers(0, 10_000)
kinds = st.sampled_from([np.uint16, np.uint32])
shapes = st.sampled_from([(1, 1), (2, 7), (3, 700), (1, 2048), (5, 1025)])


def _bits(values: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    bits = values.astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16) if kind is np.uint16 else bits


def _vectors(seed: int, models: int, shape: tuple[int, int], kind: Any) -> tuple[StoredVectors, np.ndarray[Any, Any]]:
    """Models near a base, some entries unmoved, as bits; and their differences."""
    generator, entries = np.random.default_rng(seed), shape[0] * shape[1]
    base = _bits(generator.standard_normal(entries), kind)
    moved = generator.standard_normal((models, entries)) * generator.choice([0, 0.01, 1], (models, entries))
    shift = 32 - 8 * base.itemsize
    wide = (base.astype(np.uint32) << shift).view(np.float32)
    rows = np.where(moved == 0, base, _bits(wide + moved, kind))
    differences = np.empty((models, *shape), np.float32)
    assert compiled.subtract_all(rows, base, differences.reshape(models, -1))
    return StoredVectors(rows, base), differences


def _stored(values: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    out, bits = np.empty(values.size, kind), values.reshape(1, -1).view(np.uint32)
    assert sum_bits(bits, bits[0, :0], [1.0], 1.0, subtract=False, out=out)
    return out


@given(
    seed=seeds,
    models=st.integers(1, 4),
    shape=shapes,
    kind=kinds,
    stored_as=kinds,
    elects=st.booleans(),
    normalize=st.booleans(),
    zero_sign=st.sampled_from([1.0, -1.0]),
    left=st.sampled_from(["all", "drawn", "marked"]),
    limit=st.sampled_from([0.0, 0.005, math.inf]),
    scale=st.sampled_from([1.0, 0.3]),
)
def test_one_loop_gives_the_bits_of_many(
    seed: int,
    models: int,
    shape: tuple[int, int],
    kind: Any,
    stored_as: Any,
    elects: bool,
    normalize: bool,
    zero_sign: float,
    left: str,
    limit: float,
    scale: float,
) -> None:
    stored, vectors = _vectors(seed, models, shape, kind)
    generator = np.random.default_rng(seed + 1)
    weights, scales = generator.uniform(0.1, 2, models).tolist(), generator.uniform(0.5, 2, models).tolist()
    offset = 4 * int(generator.integers(9)) + 1
    if left == "drawn":
        stored = stored.dropped([0.5] * models, list(range(models)), offset)
        for i, vector in enumerate(vectors):
            kernels.drop(vector, 0.5, i, offset)
    elif left == "marked":
        marks = KeptMarks()
        before = generator.standard_normal((models, 1, shape[1])).astype(np.float32)
        kept = np.concatenate([before, np.where(generator.random(vectors.shape) < 0.5, vectors, np.float32(0))], axis=1)
        marks.remember(0, kept)
        found = marks.find(1, 1 + shape[0], shape[1])
        assert found is not None
        stored, vectors = stored.marked(*found), kept[:, 1:].copy()
    low, high = [limit] * models, [2.0 if limit == 0.005 else math.inf] * models
    out = np.empty(stored.base.size, stored_as)
    stored.merge(
        weights, out, elects=elects, scales=scales, low=low, high=high, zero_sign=zero_sign, normalize=normalize,
        scale=scale,
    )  # fmt: skip
    if elects:
        merged, balance = kernels.elect(
            vectors, weights, scales=scales, normalize=normalize, zero_sign=zero_sign, thresholds=low, ceilings=high
        )
        factors = [weight * own for weight, own in zip(weights, scales, strict=True)]
        assert stored.balance_of_votes(factors, low, high) == balance
    else:
        factors = [weight * own for weight, own in zip(weights, scales, strict=True)]
        merged = kernels.trimmed_sum(vectors, factors, thresholds=low, ceilings=high)
        if normalize:
            merged /= sum(weights)
    base = (stored.base.astype(np.uint32) << (32 - 8 * stored.base.itemsize)).view(np.float32)
    expected = kernels.add_scaled(base.reshape(shape), merged, scale)
    assert (out == _stored(expected, stored_as)).all()


@given(seed=seeds, models=st.integers(1, 3), shape=shapes, kind=kinds, dropped=st.booleans(), trimmed=st.booleans())
def test_l1_norms_from_bits_are_those_of_the_differences(
    seed: int, models: int, shape: tuple[int, int], kind: Any, dropped: bool, trimmed: bool
) -> None:
    stored, vectors = _vectors(seed, models, shape, kind)
    before = kernels.l1_norms(vectors)
    np.testing.assert_allclose(before, np.abs(vectors.astype(np.float64)).sum((1, 2)), rtol=1e-12)
    if dropped:
        stored = stored.dropped([0.6] * models, list(range(models)), 5)
        for key, vector in enumerate(vectors):
            kernels.drop(vector, 0.6, key, 5)
    low, high = ([0.002] * models, [0.5] * models) if trimmed else no_limits(models)
    after = kernels.l1_norms(vectors, thresholds=low, ceilings=high)
    assert (stored.l1_norms(low, high) == np.stack([before, after])).all()


@given(seed=seeds, shape=shapes, kind=kinds, dropped=st.booleans(), share=st.floats(0, 1))
def test_counts_around_a_bracket_are_those_of_the_differences(
    seed: int, shape: tuple[int, int], kind: Any, dropped: bool, share: float
) -> None:
    stored, vectors = _vectors(seed, 2, shape, kind)
    if dropped:
        stored = stored.dropped([0.7, 0.7], [3, 4], 8)
        for key, vector in zip((3, 4), vectors, strict=True):
            kernels.drop(vector, 0.7, key, 8)
    rank = max(1, int(share * vectors[0].size))
    for number, vector in enumerate(vectors):
        made, again = (Brackets([vector[:, :50]], [rank / vector.size]) for _ in range(2))
        counts, stored_counts = made.begin(), again.begin()
        made.observe(vector, counts)
        again.observe_stored(stored, number, stored_counts)
        assert (counts.counts == stored_counts.counts).all()
        made.fold(counts)
        again.fold(stored_counts)
        assert made.found(0, rank) == again.found(0, rank)
        value = float(abs(vector.reshape(-1)[0]))
        ties = TieCut(value, 0, 1).ties(vector)
        assert (stored.count_ties(number, value, shape[1]) == ties).all()


@given(seed=seeds, models=st.integers(1, 4), shape=shapes, kind=kinds, stored_as=kinds)
def test_a_competition_from_bits_is_that_of_the_differences(
    seed: int, models: int, shape: tuple[int, int], kind: Any, stored_as: Any
) -> None:
    stored, vectors = _vectors(seed, models, shape, kind)
    low, high = [0.001] * models, [0.5] * models
    scores = kernels.scores(vectors, low, high)
    made, again = ([Brackets([own[:, :50]], [0.3, 0.0], signed=True) for own in scores] for _ in range(2))
    parts, stored_parts = ([one.begin() for one in some] for some in (made, again))
    for one, own, part in zip(made, scores, parts, strict=True):
        one.observe(own, part)
    competition.count_stored_scores(stored, low, high, again, stored_parts)
    for part, stored_part in zip(parts, stored_parts, strict=True):
        assert (part.counts == stored_part.counts).all()
        assert part.size == stored_part.size
        assert all(np.array_equal(a, b) for a, b in zip(part.kept, stored_part.kept, strict=True))
    lowest, highest = [0.0] * models, [float(own.max()) for own in scores]
    out = np.empty(stored.base.size, stored_as)
    competition.merge_stored(stored, low, high, lowest, highest, 1.2, out)
    base = (stored.base.astype(np.uint32) << (32 - 8 * stored.base.itemsize)).view(np.float32)
    merged = kernels.balance(vectors, low, high, lowest, highest)
    assert (out == _stored(kernels.add_scaled(base.reshape(shape), merged, 1.2), stored_as)).all()


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_is_refused_everywhere(kind: Any, value: float) -> None:
    stored, _ = _vectors(1, 2, (3, 700), kind)
    stored.rows[1, 1999] = _bits(np.array([value]), kind)[0]
    low, high = no_limits(2)
    # An infinite limit trims it away, and still it is met.
    with pytest.raises(NotFinite):
        stored.merge([1, 1], np.empty(2100, kind), elects=True, scales=[1, 1], low=[math.inf] * 2, high=high)
    with pytest.raises(NotFinite):
        stored.balance_of_votes([1, 1], low, high)
    with pytest.raises(NotFinite):
        stored.count_ties(1, 0.5, 700)
    with pytest.raises(NotFinite):
        stored.l1_norms(low, high)
    made = Brackets([np.ones(9, np.float32)], [0.5])
    with pytest.raises(NotFinite):
        made.observe_stored(stored, 1, made.begin())
    made.observe_stored(stored, 0, made.begin())


def test_a_result_too_large_for_bfloat16_is_refused() -> None:
    stored, _ = _vectors(1, 2, (1, 7), np.uint32)
    low, high = no_limits(2)
    with pytest.raises(NotFinite):
        stored.merge([3e38, 3e38], np.empty(7, np.uint16), elects=False, scales=[1, 1], low=low, high=high, scale=1e6)


@given(seed=seeds, rows=st.integers(1, 6), first=st.integers(0, 5), more=st.integers(1, 5), start=st.integers(0, 5))
def test_a_cut_says_what_it_leaves_of_each_row(seed: int, rows: int, first: int, more: int, start: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.choice([0.5, -0.5, 0.25], (rows, 3)).astype(np.float32)
    cut = TieCut(0.5, first, first + more)
    cut.add("m", cut.ties(matrix))
    cut.finish()
    part = matrix[min(start, rows - 1) :].copy()
    begin = rows - len(part)
    said = cut.kept("m", begin, rows)
    cut.drop("m", begin, part)
    for kept, before, after in zip(said, matrix[begin:], part, strict=True):
        ties = abs(before) == 0.5
        left = (after[ties] != 0).sum()
        if ties.any():
            assert kept == (KEPT if left == ties.sum() else CUT if left else DROPPED)


def test_scores_of_magnitudes_that_hardly_differ_are_numbers() -> None:
    """The inverse of a range of denormal numbers is infinite; it is taken for a range of one value."""
    import torch

    vectors = np.array([[1e-45, -3e-45, 0.0], [1.0, 2.0, -4.0]], np.float32)
    low, high = [0.0, 1.0], [3e-45, 4.0]
    with np.errstate(all="raise"):
        scores = kernels.scores(vectors, low, high)
    assert np.isfinite(scores).all()
    assert (scores == competition._scores_formula(torch.tensor(vectors), low, high).numpy()).all()
