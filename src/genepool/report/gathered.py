"""What a search kept beyond its winner, for the page: the members of fronts, archives and populations, and their maps.

Uses the collection a finished study wrote and its history; `collect` uses it, and the page the JSON for its script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from genepool.evolution.collection import read_collection
from genepool.evolution.records import COLLECTION_FILE
from genepool.evolution.strategies import strategy_entry
from genepool.report.colour import STEPS
from genepool.report.data import Atlas, Gathering, Member
from genepool.report.study_folder import StudyFolder

#: Members of archives that the table shows; the picture, its CSV and `genepool collection` have all of them.
ROWS = 200
# Cells of a map along each side, where the strategy has no bins of its own.
_BINS = 10


def gathering(name: str, folder: StudyFolder) -> Gathering | None:
    """What the search `name` kept; None while it is unfinished and for strategies that keep nothing."""
    if not (folder.path / COLLECTION_FILE).is_file():
        return None
    rows = read_collection(folder.path)
    if not rows:
        return None
    means = {f"{line['generation']}.{line['index']}": line.get("valid", {}) for line in folder.history}
    scores = [{**means.get(row.name, {}), **row.scores} for row in rows]
    named = tuple(
        dict.fromkeys([*(key for row in rows for key in row.scores), *(key for row in scores for key in row)])
    )
    maps: dict[str, Atlas] = {}
    for row in rows:
        if row.quality and row.quality not in maps:
            sides = [key for key in row.scores if key != row.quality] or [row.quality]
            quality, across, up = (named.index(key) for key in (row.quality, sides[0], (sides * 2)[1]))
            # Of one side alone there is a line of cells, which rise with what they are worth.
            maps[row.quality] = Atlas(row.quality, quality, across, quality if len(sides) == 1 else up)
    places = list(maps)
    members = tuple(
        Member(
            row.name,
            row.group,
            tuple(one.get(key) for key in named),
            places.index(row.quality) if row.quality else None,
        )
        for row, one in zip(rows, scores, strict=True)
    )
    command = f"genepool collection {folder.path} --write"
    return Gathering(name, named, members, tuple(maps.values()), _bins(folder), command)


def atlas_data(found: Gathering) -> str:
    """What the script draws, as JSON: `scores`, `bins`, `steps` of the colour scale, `maps` of [name, quality, across,
    up], and `members` of [name, map, scores]."""
    told = {
        "scores": found.scores,
        "bins": found.bins,
        "steps": STEPS,
        "maps": [(one.name, one.quality, one.across, one.up) for one in found.maps],
        "members": [
            (member.name, member.atlas, [None if score is None else round(score, 4) for score in member.scores])
            for member in found.members
            if member.atlas is not None
        ],
    }
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def told_members(found: Gathering) -> Sequence[Member]:
    """The members worth a row of a table: all, or, where a picture has all of them, the best of very many."""
    if len(found.members) <= ROWS or not found.maps:
        return found.members

    def worth(member: Member) -> float:
        quality = member.scores[found.maps[member.atlas or 0].quality]
        return -1.0 if quality is None else quality

    return sorted(found.members, key=worth, reverse=True)[:ROWS]


def _bins(folder: StudyFolder) -> int:
    strategy = folder.study.strategy
    options = strategy_entry(strategy.name).build.Options(**strategy.options)
    return int(getattr(options, "bins", _BINS))
