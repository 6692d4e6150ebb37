"""The testbed of strings in two sizes: a large and a small base of one vocabulary, each with its specialists.

For what steers a large model by small ones. The large one lies as in the testbed `text`, without adapters; the small
one in `small/`. Made out of the builder of `text`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genepool.testbed.beds import text
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Schedule, small_schedule_for

_SMALL = "small/"


@dataclass(frozen=True)
class SizesSettings:
    """Everything that decides what a build of two sizes makes.

    Attributes:
        strings: settings of the large models.
    """

    strings: text.BuildSettings

    @property
    def small(self) -> Schedule:
        """The schedule of the small models."""
        whole = self.strings
        return small_schedule_for(whole.regime, tiny=whole.tiny, skills=len(whole.skills))

    def digest(self) -> str:
        """A hash of the settings of `text` and the small models' schedule."""
        whole = {"text": self.strings.digest(), "small": asdict(self.small)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains the large and then the small models, and returns the manifest."""
        with text.two_workers() as pool:
            large = text.StringsBuild(self.strings, pieces, out, pool, kinds=("full",))
            small = text.StringsBuild(
                self.strings, pieces, out, pool, schedule=self.small, place=_SMALL, kinds=("full",)
            )
            large.run()
            small.run()
            manifest = large.manifest(pieces.collect([*large.model_names(), *small.model_names()]))
        settings = {**manifest["settings"], "bed": "text_sizes"}
        return {**manifest, "digest": self.digest(), "settings": settings, "small_schedule": asdict(self.small)}


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> SizesSettings:
    """See `genepool.testbed.beds`."""
    return SizesSettings(text.settings(regime=regime, tiny=tiny, seed=seed, skills=skills))
