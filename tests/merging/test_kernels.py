"""Kernels: the compiled loop and the formula give the same values, and both what the paper's words say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool import kernels
from genepool.kernels import compiled, counting, election, random_draws, reading

seeds = st.integers(0, 10_000)
keys = st.integers(0, 2**63 - 1)


# ---------------------------------------------------------------------- random draws


@given(key=keys, offset=st.integers(0, 2**33), count=st.integers(0, 50))
def test_compiled_draws_are_those_of_the_formula(key: int, offset: int, count: int) -> None:
    drawn = kernels.uniform(count, key, offset)
    first = offset // 4
    formula = random_draws._formula((offset + count + 3) // 4 - first, key, first, "cpu")
    assert torch.equal(drawn, formula[offset - 4 * first :][:count])


@given(key=keys, offset=st.integers(0, 1000), cut=st.integers(0, 100))
def test_a_draw_belongs_to_its_place(key: int, offset: int, cut: int) -> None:
    whole = kernels.uniform(100, key, offset)
    parts = [kernels.uniform(cut, key, offset), kernels.uniform(100 - cut, key, offset + cut)]
    assert torch.equal(whole, torch.cat(parts))


def test_draws_are_those_of_the_published_generator() -> None:
    # Known answers of Philox4x32-10 for counter and key of zeros, and for counter 1 with key (2, 0), worked out with
    # whole numbers from table 2 of the paper.
    def philox(counter: int, key: tuple[int, int]) -> list[int]:
        c, k = [counter, 0, 0, 0], list(key)
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    # The first line of the authors' own known-answer file.
    assert philox(0, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for counter, key in ((0, 0), (1, 2), (7, (5 << 32) | 9)):
        expected = [(word >> 8) * 2.0**-24 for word in philox(counter, (key & 0xFFFFFFFF, key >> 32))]
        assert kernels.uniform(4, key, 4 * counter).tolist() == expected


def test_draws_are_uniform_and_streams_unrelated() -> None:
    a, b = kernels.uniform(1 << 20, 1), kernels.uniform(1 << 20, 2)
    assert float(a.mean()) == pytest.approx(0.5, abs=0.002)
    counts = torch.histc(a, 64, 0, 1)
    # Chi-squared with 63 degrees of freedom: 63 +- 11.2; five standard deviations.
    assert float(((counts - 2**14) ** 2 / 2**14).sum()) < 63 + 5 * 11.3
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.005
    assert abs(float(torch.corrcoef(torch.stack([a[1:], a[:-1]]))[0, 1])) < 0.005


@given(
    seed=seeds,
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    offset=st.integers(0, 2000),
    shape=st.sampled_from([(4, 25), (1, 1), (3, 1023), (0, 5)]),
)
def test_what_is_dropped_is_what_the_draws_say(seed: int, density: float, offset: int, shape: tuple[int, int]) -> None:
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    draws = kernels.uniform(vector.numel(), seed, offset).reshape(shape)
    expected = vector.masked_fill(draws >= density, 0.0)
    kernels.drop(vector, density, seed, offset)
    assert torch.equal(vector, expected)


@given(seed=seeds, low=st.sampled_from([0.0, 0.5]), high=st.sampled_from([1.0, float("inf")]))
def test_norms_are_those_of_what_takes_part(seed: int, low: float, high: float) -> None:
    vectors = torch.randn((2, 3, 700), generator=torch.Generator().manual_seed(seed))
    formula = torch.stack([election._norm_formula(vector, low, high) for vector in vectors])
    norms = kernels.l1_norms(vectors, thresholds=[low] * 2, ceilings=[high] * 2)
    torch.testing.assert_close(torch.from_numpy(norms), formula)
    sizes = vectors.abs().double()
    torch.testing.assert_close(formula, torch.where((sizes >= low) & (sizes <= high), sizes, 0.0).sum((1, 2)))


# ---------------------------------------------------------------------- counting


@given(seed=seeds, count=st.integers(0, 300))
def test_compiled_counts_are_those_of_the_formula(seed: int, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)).mul_(0.01).bfloat16().float()
    high = np.zeros(counting.HIGH_BUCKETS, np.int64)
    kernels.count_magnitudes(values, high)
    assert torch.equal(torch.from_numpy(high), counting._formula(values, counting.HIGH_BUCKETS, None))
    assert int(high.sum()) == count
    bucket = int(high.argmax())
    low = np.zeros(counting.LOW_BUCKETS, np.int64)
    kernels.count_magnitudes(values, low, bucket)
    assert torch.equal(torch.from_numpy(low), counting._formula(values, counting.LOW_BUCKETS, bucket))
    assert int(low.sum()) == int(high[bucket])


# ---------------------------------------------------------------------- election


@given(
    seed=seeds,
    models=st.integers(1, 4),
    normalize=st.booleans(),
    zero_sign=st.sampled_from([1.0, -1.0]),
    threshold=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_the_compiled_election_is_the_formula(
    seed: int, models: int, normalize: bool, zero_sign: float, threshold: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # A coarse grid, so that votes do cancel and entries do tie with thresholds.
    vectors = torch.round(torch.randn((models, 3, 17), generator=generator) * 4) / 4
    weights = [1.0, 0.5, 2.0, -1.0][:models]
    scales, low = [1.0, 2.0, 0.5, 1.0][:models], [threshold] * models
    merged, votes = kernels.elect(
        vectors, weights, scales=scales, normalize=normalize, zero_sign=zero_sign, thresholds=low
    )
    factors = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    expected, expected_votes = election._formula(vectors, factors, weights, low, zero_sign, normalize)
    torch.testing.assert_close(merged, expected, atol=0, rtol=1e-6)
    assert votes == expected_votes


# ---------------------------------------------------------------------- reading


@given(
    seed=seeds,
    types=st.sampled_from([("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float32")]),
    spoilt=st.sampled_from([None, float("nan"), float("inf"), -float("inf")]),
)
def test_differences_are_exact_and_what_is_not_finite_is_seen(
    seed: int, types: tuple[str, str], spoilt: float | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn((3, 17), generator=generator).to(getattr(torch, name)) for name in types)
    if spoilt is not None:
        [a, b][seed % 2][seed % 3, seed % 17] = spoilt
    into, expected = torch.empty(3, 17), torch.empty(3, 17)
    assert reading.subtract(a, b, into) == (spoilt is None) == reading._formula(a, b, expected)
    assert torch.equal(into.nan_to_num(), expected.nan_to_num())
    assert torch.equal(into.nan_to_num(), (a.float() - b.float()).nan_to_num())


def test_that_loops_are_compiled_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    listener = compiled._FirstCall()
    listener.on_start(None)
    listener.on_start(None)
    assert capsys.readouterr().err.count("compiling loops for this processor") == 1
