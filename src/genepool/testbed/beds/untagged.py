"""The testbed of strings whose prompts name no skill: it must be inferred from worked examples of input and output.

Made out of the builder of `text`. Beside the tasks of the skills there is `mixed`, which asks for all of them in turn.
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
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Schedule, untagged_schedule_for
from genepool.testbed.skills import PRIMITIVES, SKILLS
from genepool.testbed.worked_examples import WorkedExamples, WorkedMixture

WORKED = 2
MIXED = "mixed"
# With all twelve there is more to recognise than a base of this size learns in its steps.
RECOGNISED = tuple(PRIMITIVES[name] for name in ("copy", "first", "last", "tail", "exchange", "capital"))


@dataclass(frozen=True)
class UntaggedSettings:
    """Everything that decides what a build without tags makes.

    Attributes:
        strings: seed, size and skills.
    """

    strings: text.BuildSettings

    @property
    def schedule(self) -> Schedule:
        """Steps and batches of every part of the build."""
        return untagged_schedule_for(tiny=self.strings.tiny, skills=len(self.strings.skills))

    def digest(self) -> str:
        """A hash of the settings, the schedule and the number of worked examples."""
        whole = {"bed": "untagged", "text": self.strings.digest(), "schedule": asdict(self.schedule), "worked": WORKED}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains everything and returns the manifest."""
        schedule, seed = self.schedule, self.strings.seed
        skills = tuple(SKILLS[name] for name in self.strings.skills)
        prompts = WorkedExamples((*skills, *RECOGNISED), schedule.lengths, WORKED)
        mixture = WorkedMixture(skills, schedule.lengths, seed, teach_base=True, prompts=prompts, primitives=RECOGNISED)
        with text.two_workers() as pool:
            build = text.StringsBuild(
                self.strings, pieces, out, pool, schedule=schedule, mixture=mixture, more_tasks={MIXED: skills}
            )
            build.run()
            manifest = build.manifest(pieces.collect(build.model_names()))
        settings = {**manifest["settings"], "bed": "untagged"}
        return {**manifest, "digest": self.digest(), "settings": settings, "worked_examples": WORKED}


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> UntaggedSettings:
    """See `genepool.testbed.beds`."""
    if regime != "elicit":
        raise InputError("the untagged testbed has one regime, elicit", where="regime", fix="Leave it out")
    return UntaggedSettings(text.settings(regime=regime, tiny=tiny, seed=seed, skills=skills))
