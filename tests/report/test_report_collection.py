"""What a search kept beyond its winner, on the page and as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from changed_report import changed
from made_study import make_ledger, make_study, make_tasks

from genepool.report import Report, collect_study, render_report, report_markdown, report_values
from genepool.report.sections.collection import (
    ROWS,
    Atlas,
    Collection,
    CollectionMember,
    SearchCollection,
    atlas_data,
    listed_members,
)


def archive(count: int, *, maps: bool = True) -> SearchCollection:
    members = tuple(
        CollectionMember(f"{i}.0", "cell", (i / count, 0.5, 0.5), 0 if maps else None) for i in range(count)
    )
    return SearchCollection(
        "CycleQD", ("add", "sort", "say"), members, (Atlas("add", 0, 1, 2),) if maps else (), 15, "x"
    )


def test_of_very_many_elites_the_table_has_the_best_and_the_picture_all() -> None:
    found = archive(3 * ROWS)
    told = listed_members(found)
    assert [member.name for member in told] == [f"{i}.0" for i in range(3 * ROWS - 1, 2 * ROWS - 1, -1)]
    drawn = json.loads(atlas_data(found))
    assert len(drawn["members"]) == 3 * ROWS
    assert drawn["maps"] == [["add", 0, 1, 2]]
    assert "The best 200 as a table" in render_report(Report("Many", sections=(Collection((found,)),)))
    assert "the best 200 of 600" in report_markdown(Report("Many", sections=(Collection((found,)),)))
    plain = archive(3 * ROWS, maps=False)
    assert listed_members(plain) == plain.members


def test_names_from_others_are_escaped(report_data: Report) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    one = SearchCollection(evil, (evil,), (CollectionMember("0.0", evil, (0.5,), 0),), (Atlas(evil, 0, 0, 0),), 3, evil)
    page = render_report(changed(report_data, Collection, searches=(one,)))
    assert "<img" not in page
    assert page.count("</script>") == 1


@pytest.mark.slow
def test_a_collection_is_read_from_the_study_folder(tmp_path: Path) -> None:
    make_tasks(tmp_path / "tasks")
    make_ledger(tmp_path / "ledger.sqlite", tmp_path / "tasks")
    out = make_study(tmp_path)
    assert collect_study(out)[Collection].searches == ()
    rows = [
        {
            "name": "0.1",
            "group": "cell 3",
            "scores": {"sort": 0.25, "upper": 0.5, "fitness": 0.4},
            "quality": "fitness",
        },
        {
            "name": "2.5",
            "group": "cell 9",
            "scores": {"sort": 0.75, "upper": 0.5, "fitness": 0.6},
            "quality": "fitness",
        },
    ]
    (out / "collection.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = collect_study(out)
    (found,) = data[Collection].searches
    # What the strategy told comes first, then the other tasks of the history.
    assert found.scores == ("sort", "upper", "fitness", "generic")
    assert found.maps == (Atlas("fitness", 2, 0, 1),)
    lines = map(json.loads, (out / "history.jsonl").read_text().splitlines())
    history = {f"{line['generation']}.{line['index']}": line for line in lines}
    assert found.members[1].scores == (0.75, 0.5, 0.6, history["2.5"]["valid"]["generic"])
    (told,) = report_values(data)["collections"]
    assert told["members"][0]["scores"]["fitness"] == 0.4
