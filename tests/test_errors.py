"""Errors in one line: names in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import listed, nearest, one_line


def test_names_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed((str(i) for i in range(2000)), limit=4) == "0, 1, 2 and 1,997 more"
    assert listed([]) == ""


def test_thousands_of_known_names_are_not_all_said() -> None:
    said = nearest("zzz", (f"name_{number:05}" for number in range(5_000)))
    assert said.startswith("Known here: name_00000, name_00001")
    assert said.endswith(" and 4,940 more")


@given(st.text(st.characters(codec="ascii"), max_size=400), st.integers(10, 200))
def test_a_text_of_others_is_cut_between_words(text: str, longest: int) -> None:
    words = text.split()
    said = one_line(text, longest)
    assert len(said) <= longest + len(" ...")
    if text.strip() and all(len(word) <= longest for word in words) and said.endswith(" ..."):
        kept = said.removesuffix(" ...").split()
        assert kept == words[: len(kept)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no route\n to host."), "no route to host"),
        (OSError(), "OSError"),
        (ValueError("One is. Two is longer than that"), "One is"),
        (ValueError("nothing but one long sentence"), "nothing but one ..."),
    ],
)
def test_a_text_of_others_on_one_line(error: Exception, said: str) -> None:
    assert one_line(error, 18) == said
