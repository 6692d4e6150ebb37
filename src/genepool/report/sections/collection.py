"""What a search kept beyond its winner: the members of fronts, archives and populations, and maps of archives.

Collected from what a finished study wrote and its history; the script beside this file draws the maps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from genepool.evolution.collection import read_collection
from genepool.evolution.records import COLLECTION_FILE
from genepool.evolution.strategies import strategy_entry
from genepool.report import markdown
from genepool.report.colour import STEPS
from genepool.report.sections import Section
from genepool.report.study_folder import StudyFolder
from genepool.report.text import count

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes

#: Members of archives that the table shows; the picture, its CSV and `genepool collection` have all of them.
ROWS = 200
# Cells of a map along each side, where the strategy has no bins of its own.
_BINS = 10


@dataclass(frozen=True)
class CollectionMember:
    """A candidate that a search kept beyond its winner.

    Attributes:
        name: "generation.index", by which `genepool collection --write` knows it.
        group: the front, archive or cell it is in.
        scores: one per name of the collection's `scores`; None where it has no such score.
        atlas: which of the collection's maps it is on; None for none.
    """

    name: str
    group: str
    scores: tuple[float | None, ...]
    atlas: int | None = None


@dataclass(frozen=True)
class Atlas:
    """A map of an archive: cells along two scores, coloured by a third; each is a place among the `scores`."""

    name: str
    quality: int
    across: int
    up: int


@dataclass(frozen=True)
class SearchCollection:
    """What a search kept beyond its winner: a front, archives, a population.

    Attributes:
        search: the search.
        scores: names of the members' scores.
        members: the candidates.
        maps: of the archives; empty where there are none.
        bins: cells along each side of a map.
        command: the command line that writes a member as a checkpoint, up to the member's name.
    """

    search: str
    scores: tuple[str, ...]
    members: tuple[CollectionMember, ...]
    maps: tuple[Atlas, ...] = ()
    bins: int = 10
    command: str = ""


@dataclass(frozen=True)
class Collection(Section):
    """What the searches kept beyond their winners."""

    searches: tuple[SearchCollection, ...] = ()

    name = "collection"
    title = "Collection"
    order = 60

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        return cls(tuple(filter(None, (search_collection(name, folder) for name, folder in study.folders.items()))))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        searches = [(one, listed_members(one), atlas_data(one)) for one in self.searches]
        return {"searches": searches} if searches else None

    def markdown(self, report: Report) -> list[str]:
        lines: list[str] = []
        for one in self.searches:
            members = listed_members(one)
            few = f", the best {len(members)} of {count(len(one.members))}" if len(members) < len(one.members) else ""
            lines += [markdown.plain(f"What {one.search} kept{few}:"), ""]
            rows = [(m.name, m.group, *("" if s is None else f"{s:.3f}" for s in m.scores)) for m in members]
            lines += markdown.table(("candidate", "in", *one.scores), rows, texts=2)
        return ["## Collection", "", *lines] if lines else []

    def values(self) -> dict[str, Any]:
        return {
            "collections": [
                {
                    "search": one.search,
                    "members": [
                        {"name": m.name, "in": m.group, "scores": dict(zip(one.scores, m.scores, strict=True))}
                        for m in one.members
                    ],
                }
                for one in self.searches
            ]
        }


def search_collection(name: str, folder: StudyFolder) -> SearchCollection | None:
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
        CollectionMember(
            row.name,
            row.group,
            tuple(one.get(key) for key in named),
            places.index(row.quality) if row.quality else None,
        )
        for row, one in zip(rows, scores, strict=True)
    )
    command = f"genepool collection {folder.path} --write"
    return SearchCollection(name, named, members, tuple(maps.values()), _bins(folder), command)


def atlas_data(found: SearchCollection) -> str:
    """What the script draws, as JSON.

    `scores`, `bins`, `steps` of the colour scale, `maps` of [name, quality, across, up], and `members` of [name, map,
    scores].
    """
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


def listed_members(found: SearchCollection) -> Sequence[CollectionMember]:
    """The members worth a row of a table: all, or, where a picture has all of them, the best of very many."""
    if len(found.members) <= ROWS or not found.maps:
        return found.members

    def worth(member: CollectionMember) -> float:
        quality = member.scores[found.maps[member.atlas or 0].quality]
        return -1.0 if quality is None else quality

    return sorted(found.members, key=worth, reverse=True)[:ROWS]


def _bins(folder: StudyFolder) -> int:
    strategy = folder.study.strategy
    options = strategy_entry(strategy.name).build.Options(**strategy.options)
    return int(getattr(options, "bins", _BINS))
