"""The pieces of a build, each published whole with a record that says it is finished: a killed build goes on from them.

Used by the builders of every testbed; knows nothing of what a piece is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.staging import staged_folder, write_text

_RECORDS, _DIGEST = ".records", "digest"


class Pieces:
    """What is finished in a staging folder.

    Args:
        staging: the folder, empty or left by a killed build of the same settings.
        digest: the hash of the settings of this build.
    """

    def __init__(self, staging: Path, digest: str) -> None:
        self.staging = staging
        self._records = staging / _RECORDS
        if not self.are_of(staging, digest):
            write_text(self._records / _DIGEST, digest)

    @staticmethod
    def are_of(staging: Path, digest: str) -> bool:
        """Whether the pieces in a folder are of these settings."""
        mark = staging / _RECORDS / _DIGEST
        return mark.is_file() and mark.read_text(errors="replace") == digest

    def finished(self, name: str) -> bool:
        """Whether the piece is there, whole."""
        return (self.staging / name).exists() and self._record(name).exists()

    def publish(self, name: str, record: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Leaves the piece's folder and the record that says it is finished, in this order.

        Args:
            record: what the manifest will say of it.
            save: fills a folder.
        """
        with staged_folder(self.staging / name, overwrite=True) as unfinished:
            save(unfinished)
        write_text(self._record(name), json.dumps(record))

    def collect(self, names: Sequence[str]) -> dict[str, Any]:
        """The records of all pieces by name; they are removed from the folder, which is then complete."""
        found = {name: json.loads(self._record(name).read_text()) for name in names}
        shutil.rmtree(self._records)
        return found

    def _record(self, name: str) -> Path:
        return self._records / f"{name.replace('/', '.')}.json"
