"""Errors in one line: names in a sentence."""

from __future__ import annotations

from genepool.errors import listed


def test_names_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed((str(i) for i in range(2000)), limit=4) == "0, 1, 2 and 1,997 more"
    assert listed([]) == ""
