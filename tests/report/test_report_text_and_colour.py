"""Numbers as the page writes them, and colours that can be read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.measure import NOT_MEASURED, Interval
from genepool.report import colour, text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.94149, "94.1"), (0.0, "0.0"), (1.0, "100.0"), (None, "–"), (-1e-9, "0.0")]
)
def test_percent(value: float | None, shown: str) -> None:
    assert text.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.031, "+3.1"), (-0.0044, "−0.4"), (0.0, "0.0"), (-0.00001, "0.0"), (None, "–")]
)
def test_points(value: float | None, shown: str) -> None:
    assert text.points(value) == shown


@pytest.mark.parametrize(
    ("estimate", "word"),
    [
        (Interval(0.1, 0.01, 0.2), "ahead"),
        (Interval(-0.1, -0.2, -0.01), "behind"),
        (Interval(0.1, -0.01, 0.2), "no clear difference"),
        (Interval(0.0, 0.0, 0.0), "no clear difference"),
        (Interval(0.1), "no interval"),
        (NOT_MEASURED, "not measured"),
    ],
)
def test_the_verdict_follows_from_the_interval(estimate: Interval, word: str) -> None:
    assert text.verdict(estimate) == word


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (425, "7 min 05 s"), (11520, "3 h 12 min"), (None, "–")],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.50"), (-0.25, "−0.25"), (-0.0001, "0.00"), (123.4, "123")])
def test_compact(value: float, shown: str) -> None:
    assert text.compact(value) == shown


def test_long_text_says_how_much_is_missing() -> None:
    assert text.shortened("a" * 1700, 600) == "a" * 600 + " … (1,100 characters more)"
    assert text.shortened("short", 600) == "short"


@given(st.text(st.characters()))
def test_cleaned_text_can_be_written_and_parsed(raw: str) -> None:
    cleaned = text.clean(raw)
    cleaned.encode("utf-8")
    assert all(char in "\t\n" or ord(char) >= 32 for char in cleaned)
    assert text.clean(cleaned) == cleaned


def test_every_step_of_the_scale_can_be_read() -> None:
    for dark in (False, True):
        for i in range(colour.STEPS + 1):
            background = colour.scale_colour(i / colour.STEPS, dark=dark)
            assert colour.contrast(colour.readable_on(background), background) >= 4.5


def test_the_scale_is_ordered_in_lightness_so_that_grey_and_colour_blind_eyes_read_it() -> None:
    for dark in (False, True):
        greys = [colour.contrast(colour.scale_colour(i / 40, dark=dark), "#000000") for i in range(41)]
        assert greys == sorted(greys, reverse=not dark)


def test_curves_stand_out_from_their_page() -> None:
    for light, dark in colour.CURVES:
        assert colour.contrast(light, "#fbfaf7") >= 4.5
        assert colour.contrast(dark, "#14171b") >= 4.5


@given(st.floats(allow_nan=False, allow_infinity=True))
def test_any_score_has_a_step(score: float) -> None:
    assert 0 <= colour.step(score) <= colour.STEPS


def test_contrast_of_black_and_white_is_the_standards() -> None:
    assert math.isclose(colour.contrast("#000000", "#ffffff"), 21.0)
