"""MAP-Elites fills the map it is given, whichever cells it has."""

from __future__ import annotations

import numpy as np
import pytest

from genepool.evolution.archives import CvtArchive, GridArchive
from genepool.evolution.strategies import make_strategy
from genepool.evolution.strategies.base import Evidence
from genepool.evolution.strategies.map_elites import MapElites


@pytest.mark.parametrize(("archive", "kind", "covered"), [("grid", GridArchive, 0.6), ("cvt", CvtArchive, 0.6)])
def test_the_map_fills_and_its_elites_improve(archive: str, kind: type, covered: float) -> None:
    search = make_strategy("map_elites", np.full(4, 0.5), seed=2, options={"archive": archive, "batch": 20})
    assert isinstance(search, MapElites)
    scores = []
    for _ in range(150):
        xs = search.ask()
        means = xs[:, :2]
        search.tell(xs, 1 - np.abs(xs[:, 2:] - 0.3).mean(axis=1), Evidence(("a", "b"), means, means))
        assert search.archive is not None
        scores.append((search.archive.coverage, search.archive.qd_score))
    assert isinstance(search.archive, kind)
    assert scores == sorted(scores)
    assert search.archive.coverage > covered
    best = search.archive.best()
    assert best is not None
    assert best.objective > 0.95
    for elite in search.archive.elites():
        assert elite.measures == tuple(elite.item[1][:2])
