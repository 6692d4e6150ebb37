"""Whom methods, strategies and measures are equal to: what the reference pages say is measured again, and holds.

The fast tests measure a few rows and look over the records; the slow one measures every row.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faithful import measures, merges, strategies
from benchmarks.faithful.merges import FROM_AUTHORS, FROM_FORMULAS, Held, Merge, held
from genepool.evolution.strategies import strategies as all_strategies
from genepool.faithful import HeldAgainst, recorded, table
from genepool.merging import all_methods

MERGES, SEARCHES = recorded("genepool.merging"), recorded("genepool.evolution")
MEASURES = recorded("genepool.measure")
# A difference that depends on the processor's sums, and not on the rule.
ROUNDING = 1e-6
# The spread of how often one survives in a few thousand draws.
SPREAD = 0.03


def _row(one: Held) -> HeldAgainst:
    """The record of a row."""
    return next(
        row
        for row in MERGES[one.merge.method]
        if (row.against, row.input, row.note) == (one.against, one.merge.inputs, one.note)
    )


def _ids(rows: tuple[Held, ...]) -> list[str]:
    return [f"{one.merge.method}-{one.golden or 'formula'}-{'bf16' if one.merge.rounded else 'fp32'}" for one in rows]


@pytest.mark.parametrize(
    "one",
    [one for one in FROM_AUTHORS if one.golden in ("pcb_short_script", "sce", "localize_stitch")],
    ids=lambda one: one.golden,
)
def test_a_record_holds(one: Held) -> None:
    found, said = one.measured(), _row(one)
    assert replace(found, largest=said.largest) == said
    assert found.largest == pytest.approx(said.largest, abs=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("one", list(held()), ids=_ids(tuple(held())))
def test_every_record_of_a_merge_holds(one: Held) -> None:
    found, said = one.measured(), _row(one)
    assert replace(found, largest=said.largest) == said
    assert found.largest == pytest.approx(said.largest, abs=ROUNDING)


@pytest.mark.slow
def test_every_record_of_mergekit_holds(tmp_path: Path) -> None:
    merges.models.golden_inputs().write_models(tmp_path)
    for method, recipes in merges.mergekit_recipes().items():
        found = merges.against_mergekit(method, recipes, tmp_path)
        said = next(row for row in MERGES[method] if row.against == found.against)
        # Recipes may have been added since.
        assert found.entries >= said.entries
        assert found.largest == pytest.approx(said.largest, abs=ROUNDING)


@pytest.mark.slow
def test_every_record_of_a_strategy_holds() -> None:
    found = strategies.measure()
    assert sorted(found) == sorted(SEARCHES)
    for name, rows in found.items():
        for now, said in zip(rows, SEARCHES[name], strict=True):
            assert replace(now, largest=None) == replace(said, largest=None)
            if said.largest is not None:
                assert now.largest == pytest.approx(said.largest, abs=SPREAD if "spread" in said.note else ROUNDING)


@pytest.mark.slow
def test_every_record_of_a_measure_holds() -> None:
    found = measures.measure()
    assert sorted(found) == sorted(MEASURES)
    for name, rows in found.items():
        for now, said in zip(rows, MEASURES[name], strict=True):
            assert replace(now, largest=None) == replace(said, largest=None)
            assert now.largest == pytest.approx(said.largest, abs=ROUNDING)


def test_a_measure_is_what_it_says() -> None:
    # The answer of detectable_difference is exact to a thousandth of itself, and its power to less than that.
    for name, rows in MEASURES.items():
        assert all(row.largest <= (1e-3 if name == "detectable_difference" else 1e-12) for row in rows)  # type: ignore[operator]


def test_a_merge_of_another_setting_is_found_out() -> None:
    """The measure itself can fail: every setting that makes both the same is needed."""
    narrow = next(one for one in FROM_AUTHORS if one.golden == "pcb_short_script")
    assert replace(narrow, merge=Merge("pcb", {"clip": 0.01, "ratio": 0.1, "lambda": 1.2})).measured().largest > 1e-3  # type: ignore[operator]
    rounded = next(one for one in FROM_FORMULAS if one.merge.method == "selekt" and one.merge.rounded)
    assert replace(rounded, told={"alpha": 0.06}).measured().largest > 1e-3  # type: ignore[operator]


def test_every_method_and_strategy_of_the_package_says_whom_it_is_equal_to() -> None:
    methods = {name for name, method in all_methods().items() if type(method).__module__.startswith("genepool.")}
    silent = sorted((methods ^ set(MERGES)) | (set(all_strategies()) ^ set(SEARCHES)))
    assert not silent, f"{silent}: add rows to benchmarks/faithful and run `python -m benchmarks.faithful --update`"


@pytest.mark.parametrize("name", sorted(MERGES))
def test_a_method_is_equal_to_something_that_ran(name: str) -> None:
    rows = MERGES[name]
    # What differs says so, and says how.
    measured = [row for row in rows if row.largest is not None and not row.note.startswith("differs: ")]
    assert measured
    assert all(row.largest <= 2e-6 for row in measured)  # type: ignore[operator]


@pytest.mark.parametrize(
    "rows", [*MERGES.values(), *SEARCHES.values(), *MEASURES.values()], ids=[*MERGES, *SEARCHES, *MEASURES]
)
def test_only_what_ran_has_a_figure(rows: tuple[HeldAgainst, ...]) -> None:
    for row in rows:
        ran = row.how in ("run", "formula")
        assert ran or row.how in ("read, not run", "is what runs")
        assert ran == (row.largest is not None) == (row.entries > 0) == bool(row.input) == bool(row.dtype)
        assert ran or row.note


def test_the_table_links_the_repository_and_names_the_function() -> None:
    rows = [HeldAgainst("somebody/some-code 0123abc, `f`", "run", "numbers", "float32", 7, 0.0, "as it is")]
    assert table(rows)[-1] == (
        "| [somebody/some-code](https://github.com/somebody/some-code/tree/0123abc) 0123abc, `f` | run | numbers | "
        "float32 | 7 | none | as it is |"
    )


def test_the_commands_say_it(cli) -> None:
    told = json.loads(cli("methods", "pcb", "--json").out)["methods"][0]["faithful"]
    assert [row["how"] for row in told].count("run") == 3
    assert "duguodong7/pcb-merging" in "".join(cli("methods", "pcb").out.split())
    searched = json.loads(cli("strategies", "m2n2", "--json").out)["strategies"][0]["faithful"]
    assert searched[0]["largest"] == 0
    assert "SakanaAI/natural_niches" in "".join(cli("strategies", "m2n2").out.split())
