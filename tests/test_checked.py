"""What a value from a file must be before it is believed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.checked import is_digest, is_line, is_number, is_text, is_whole, numbers, parsed_json

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers(), max_size=2)
)


@given(ANYTHING, st.floats(-10, 10), st.floats(-10, 10))
def test_a_number_is_finite_and_within_its_range(value: object, low: float, high: float) -> None:
    if is_number(value, low, high):
        assert type(value) in (int, float)
        assert low <= value <= high
    if is_whole(value, 0):
        assert type(value) is int
        assert value >= 0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_is_a_number(value: float) -> None:
    assert is_number(value)
    assert is_number(value, value, value)


@pytest.mark.parametrize("value", [True, None, "1", b"1", math.nan, math.inf, 10**400, -(2**63) - 1, [1]])
def test_these_are_no_numbers(value: object) -> None:
    assert not is_number(value)
    assert not is_whole(value)


@given(st.text())
def test_text_can_be_written_and_a_line_stays_one(text: str) -> None:
    if is_text(text):
        text.encode()
    if is_line(text):
        assert len(text.splitlines()) <= 1
        assert "\x1b" not in text


def test_digests() -> None:
    assert is_digest("0a" * 32)
    for wrong in ("0A" * 32, "0a" * 31, "../" + "a" * 61, "g" * 64, b"a" * 64, None, 1):
        assert not is_digest(wrong)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "[" * 100_000, "", "{", None, b"{}", 1])
def test_json_that_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        parsed_json(text)


@given(st.dictionaries(st.text("ab"), st.floats(0, 1)))
def test_json_comes_back(data: dict[str, float]) -> None:
    assert numbers(parsed_json(json.dumps(data)), 0, 1) == data


@pytest.mark.parametrize("value", [[], {"a": -5}, {"a": "1"}, {"a": True}, {"a\n": 0.5}, {1: 0.5}, None])
def test_a_mapping_of_other_things_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        numbers(value, 0, 1)
