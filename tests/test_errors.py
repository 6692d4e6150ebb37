"""Errors in one line: names in a sentence."""

from __future__ import annotations

from genepool.errors import listed, nearest


def test_names_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed((str(i) for i in range(2000)), limit=4) == "0, 1, 2 and 1,997 more"
    assert listed([]) == ""


def test_thousands_of_known_names_are_not_all_said() -> None:
    said = nearest("zzz", (f"name_{number:05}" for number in range(5_000)))
    assert said.startswith("Known here: name_00000, name_00001")
    assert said.endswith(" and 4,940 more")
