"""The testbed of strings with two-skill tasks that no specialist saw: what composes skills, and what only routes.

The testbed `text`, whose base has heard of pairs, and a task `<first>_<second>` for every two skills that make one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.testbed.beds import text
from genepool.testbed.pairs import PAIR_SHARE, PairMixture, pairs_of
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Schedule, pairs_schedule_for
from genepool.testbed.skills import SKILLS


@dataclass(frozen=True)
class PairsSettings:
    """Everything that decides what a build with pairs makes.

    Attributes:
        strings: seed, size and skills.
    """

    strings: text.BuildSettings

    @property
    def schedule(self) -> Schedule:
        """Steps and batches of every part of the build."""
        return pairs_schedule_for(tiny=self.strings.tiny, skills=len(self.strings.skills))

    def digest(self) -> str:
        """A hash of the settings, the schedule and the share of pairs."""
        whole = {"bed": "pairs", "text": self.strings.digest(), "schedule": asdict(self.schedule), "share": PAIR_SHARE}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains everything and returns the manifest."""
        schedule = self.schedule
        skills = tuple(SKILLS[name] for name in self.strings.skills)
        pairs = pairs_of(skills)
        mixture = PairMixture(skills, pairs, schedule.lengths, self.strings.seed)
        with text.two_workers() as pool:
            build = text.StringsBuild(
                self.strings, pieces, out, pool, schedule=schedule, mixture=mixture,
                more_tasks={pair.name: [pair] for pair in pairs},
            )  # fmt: skip
            build.run()
            manifest = build.manifest(pieces.collect(build.model_names()))
        told = {
            pair.name: {"does": pair.does, "tag": pair.tag, "pretraining_tag": pair.pretraining_tag} for pair in pairs
        }
        settings = {**manifest["settings"], "bed": "pairs"}
        return {**manifest, "digest": self.digest(), "settings": settings, "pairs": told}


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> PairsSettings:
    """See `genepool.testbed.beds`."""
    if regime != "elicit":
        raise InputError("the pairs testbed has one regime, elicit", where="regime", fix="Leave it out")
    made = PairsSettings(text.settings(regime=regime, tiny=tiny, seed=seed, skills=skills))
    pairs_of(tuple(SKILLS[name] for name in made.strings.skills))
    return made
