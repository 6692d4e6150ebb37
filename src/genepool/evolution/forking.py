"""A changed study that begins where an earlier run got to; that run is left alone."""

from __future__ import annotations

from pathlib import Path

from genepool.errors import InputError
from genepool.evolution.records import BEST_FILE, read_best
from genepool.evolution.representations import kind_for, representation
from genepool.evolution.representations.base import FinishedRun
from genepool.evolution.strategies import strategy_entry
from genepool.evolution.study import Study


def forked(study: Study, old: Path) -> Study:
    """The study with its start moved to the best of an earlier run.

    What that means, and whether it can be, is for what the study varies to say (`Representation.forked`). Whatever else
    the old run learned is in the ledger, which both share.

    Args:
        study: the changed study.
        old: folder of the earlier run; finished.
        where: the changed study's file, for errors.

    Raises:
        InputError: holds no finished run, or one of another kind.
    """
    if not (old / BEST_FILE).is_file():
        raise InputError(
            "holds no finished run", where=old, fix="Let it finish (a smaller --budget does), or leave --fork out"
        )
    best = read_best(old / BEST_FILE)
    # A run of before there was `vary` varied what its strategy did.
    before = best.get("vary") or kind_for(strategy_entry(best["strategy"], where=f"{old / BEST_FILE}:strategy"))
    kind = representation(before, where=f"{old / BEST_FILE}:vary")
    return representation(study.vary.kind).forked(study, FinishedRun(old, kind, best["genome"]))
