"""What a study gathered beyond its winner: fronts, archives, populations; and any of its candidates as a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from genepool.errors import InputError
from genepool.evolution.grounds import STORE_FILE
from genepool.evolution.opened import OpenedStudy
from genepool.evolution.run import COLLECTION_FILE, STUDY_FILE
from genepool.evolution.store import StudyStore, Verdict
from genepool.evolution.study import load_study


@dataclass(frozen=True)
class Gathered:
    """One member of a collection.

    Attributes:
        name: of the candidate, "generation.index".
        group: the front, archive or cell it is in.
        scores: what places it there, by name.
        quality: of a member of an archive, the score that it is the best of its cell by; empty for others.
    """

    name: str
    group: str
    scores: dict[str, float]
    quality: str = ""


def read_collection(out: str | Path) -> list[Gathered]:
    """What the finished study in `out` gathered.

    Raises:
        InputError: no study there, or it is not finished.
    """
    path = Path(out) / COLLECTION_FILE
    if not (Path(out) / STUDY_FILE).is_file():
        raise InputError("not a study folder", where=out, fix="Name the folder that `genepool evolve --out` wrote")
    if not path.is_file():
        raise InputError("nothing gathered yet", where=out, fix="Let `genepool evolve` finish the study first")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            Gathered(
                str(row["name"]),
                str(row["group"]),
                {str(name): float(score) for name, score in row["scores"].items()},
                str(row.get("quality", "")),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"damaged ({error})", where=path, fix="Run `genepool evolve` on the study again") from None


def write_candidate(out: str | Path, name: str, folder: str | Path, *, overwrite: bool = False) -> Verdict:
    """Writes any candidate of a study as a checkpoint.

    Args:
        out: the study's folder.
        name: the candidate, "generation.index".
        folder: where the checkpoint goes.
        overwrite: replace what is there.

    Returns:
        What the candidate was worth in the search.

    Raises:
        InputError: no study, no such candidate, one that failed, or `folder` is occupied.
    """
    from genepool import staging

    out = Path(out)
    if not (out / STUDY_FILE).is_file() or not (out / STORE_FILE).is_file():
        raise InputError("not a study folder", where=out, fix="Name the folder that `genepool evolve --out` wrote")
    with StudyStore(out / STORE_FILE) as store:
        candidate = store.candidate(name)
        verdict = store.result(candidate) if candidate is not None else None
    if candidate is None or verdict is None:
        raise InputError(f"no candidate '{name}'", where=out, fix="`genepool collection` lists what was gathered")
    if verdict.fitness is None:
        raise InputError(f"candidate {name} failed ({verdict.error})", where=out, fix="Choose another")
    staging.check_free(Path(folder), overwrite=overwrite)
    opened = OpenedStudy.open(load_study(out / STUDY_FILE), str(out / STUDY_FILE), out=out)
    scores = "\n".join(f"| {task} | {mean:.3f} |" for task, mean in verdict.valid.items())
    sections = {
        "Validation scores": f"| task | mean |\n|---|--:|\n{scores}",
        "Lineage": f"Candidate {name} of {out.name}.",
    }
    opened.ground.write(candidate, Path(folder), sections)
    return verdict
