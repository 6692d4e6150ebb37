"""What a study gathered beyond its winner: fronts, archives, populations; and any of its candidates as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.permissions import NOTHING, Permissions
from genepool.evolution.records import BEST_FILE, COLLECTION_FILE, STORE_FILE, read_best, read_members
from genepool.evolution.run import STUDY_FILE
from genepool.evolution.store import StudyStore
from genepool.evolution.study_file import load_study
from genepool.own_inputs import refuse_own_input

if TYPE_CHECKING:
    from genepool.weights import WrittenChange


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
        raise InputError("is not a study folder", where=out, fix="Name the folder that `genepool evolve --out` wrote")
    if not path.is_file():
        raise InputError(
            "the study has no collection yet", where=out, fix="Let `genepool evolve` finish the study first"
        )
    return [Gathered(row["name"], row["group"], row["scores"], row.get("quality", "")) for row in read_members(path)]


def write_candidate(
    out: str | Path,
    name: str,
    folder: str | Path,
    *,
    rank: int | None = None,
    overwrite: bool = False,
    trust: Permissions = NOTHING,
) -> tuple[Verdict, WrittenChange | None]:
    """Writes any candidate of a study, as a checkpoint or as a PEFT LoRA adapter of the base.

    Args:
        out: the study's folder.
        name: the candidate, "generation.index", or "winner".
        folder: where it goes.
        rank: of the adapter; a model when None. What was bred of adapters keeps its factors, where they have no more
            directions.
        overwrite: replace what is there.
        trust: pickles and code that the study may open.

    Returns:
        What the candidate was worth in the search (the winner as a finalist), and of an adapter what became of its
        change.

    Raises:
        InputError: no study, no such candidate, one that failed, `folder` is occupied, or no adapter can hold any of
            its change.
    """
    from genepool import staging

    out, folder = Path(out), Path(folder)
    if rank is not None and rank < 1:
        raise InputError(f"must be at least 1, got {rank}", where="--as-lora", fix="Give 1 or more")
    if not (out / STUDY_FILE).is_file() or not (out / STORE_FILE).is_file():
        raise InputError("is not a study folder", where=out, fix="Name the folder that `genepool evolve --out` wrote")
    candidate, verdict = _winner(out) if name == "winner" else _candidate(out, name)
    staging.check_free(folder, overwrite=overwrite)
    opened = OpenedStudy.open(load_study(out / STUDY_FILE), str(out / STUDY_FILE), out=out, trust=trust)
    study = opened.study
    refuse_own_input(folder, [out, *study.named_models.values(), study.tasks.dir])
    if rank is not None and study.base is None:
        raise InputError(
            "the study has no base that an adapter could be put on",
            where=out,
            fix="Leave --as-lora out, or make one with `genepool merge --as-lora`",
        )
    lineage = f"{'The winner' if name == 'winner' else f'Candidate {name}'} of {out.resolve().name}."
    if rank is not None:
        return verdict, _write_adapter(opened, candidate, verdict, folder, rank, lineage, overwrite)
    scores = "\n".join(f"| {task} | {mean:.3f} |" for task, mean in verdict.valid.items())
    sections = {"Validation scores": f"| task | mean |\n|---|--:|\n{scores}", "Lineage": lineage}
    opened.representation.write(candidate, folder, sections, overwrite=overwrite)
    return verdict, None


def _candidate(out: Path, name: str) -> tuple[Candidate, Verdict]:
    with StudyStore(out / STORE_FILE) as store:
        candidate = store.candidate(name)
        verdict = store.result(candidate) if candidate is not None else None
    if candidate is None or verdict is None:
        raise InputError(f"has no candidate '{name}'", where=out, fix="List the candidates with `genepool collection`")
    if verdict.fitness is None:
        raise InputError(f"candidate {name} failed ({verdict.error})", where=out, fix="Choose another")
    return candidate, verdict


def _winner(out: Path) -> tuple[Candidate, Verdict]:
    """Also where it is the strategy's own guess, which no generation has."""
    path = out / BEST_FILE
    if not path.is_file():
        raise InputError("has no winner yet", where=out, fix="Let `genepool evolve` finish the study first")
    best = read_best(path)
    seed = load_study(out / STUDY_FILE).seed
    candidate = Candidate(best.get("id", ""), best.get("generation", 0), best.get("index", 0), best["genome"], seed)
    return candidate, Verdict(best["fitness"], best["valid"])


def _write_adapter(
    opened: OpenedStudy,
    candidate: Candidate,
    verdict: Verdict,
    folder: Path,
    rank: int,
    lineage: str,
    overwrite: bool,
) -> WrittenChange:
    from genepool.skills import write_peft
    from genepool.weights import BaseWithChange, Change, ModelDifference

    base, weights = opened.sources[opened.study.reference], opened.representation.source(candidate)
    changes: Change
    if isinstance(weights, BaseWithChange) and weights.base is base:
        changes = weights.change
    else:
        changes = ModelDifference(weights, base)
    changes.header = replace(changes.header, name=folder.resolve().name, description=lineage, scores=verdict.valid)
    return write_peft(changes, opened.study.reference, folder, rank=rank, overwrite=overwrite)
