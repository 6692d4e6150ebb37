"""A changed study that begins where an earlier run got to; that run is left alone."""

from __future__ import annotations

from pathlib import Path

from genepool import progress
from genepool.checked import is_number
from genepool.errors import InputError
from genepool.evolution.records import BEST_FILE, read_best
from genepool.evolution.strategies import strategy_entry
from genepool.evolution.study import SkillChoice, Study

_WINNER = "winner"


def forked(study: Study, old: Path, where: str = "study") -> Study:
    """The study with its start moved to the best of an earlier run.

    A search over parameters begins at the winner's value wherever a parameter that is not split has one within its
    range (the mean over skills, layer groups and roles where the old run had it split). A study that breeds models
    gets the winner as one more skill. Whatever else the old run learned is in the ledger, which both share.

    Args:
        study: the changed study.
        old: folder of the earlier run; finished.
        where: the changed study's file, for errors.

    Raises:
        InputError: no finished run there, or one of another kind.
    """
    if not (old / BEST_FILE).is_file():
        raise InputError(
            "no finished run there", where=old, fix="Let it finish (a smaller --budget does), or leave --fork out"
        )
    best = read_best(old / BEST_FILE)
    genome, before = best["genome"], strategy_entry(best["strategy"], where=f"{old / BEST_FILE}:strategy")
    entry = strategy_entry(study.strategy.name, where=f"{where}:strategy.name")
    # A winner is a model, whatever made it; numbers can only begin at numbers.
    if entry.varies == "singular values" or (entry.varies == "parameters" and before.varies != "parameters"):
        other = f"that run varied {before.varies}, and " if entry.varies != before.varies else ""
        raise InputError(
            f"{other}{entry.name} varies {entry.varies}, which cannot begin at its winner",
            where=old,
            fix="Leave --fork out: what that run found out is in the ledger all the same",
        )
    if entry.varies == "models":
        name = f"winner-of-{old.resolve().name}"
        if not (old / _WINNER).is_dir() or name in {skill.name for skill in study.skills}:
            return study
        winner = SkillChoice(name=name, model=str((old / _WINNER).resolve()))
        return study.model_copy(update={"skills": (*study.skills, winner)})
    search = dict(study.search)
    for parameter, wanted in study.search.items():
        values = [value for gene, value in genome.items() if _parameter(gene) == parameter]
        if values and all(map(is_number, values)):
            start = min(max(sum(values) / len(values), wanted.low), wanted.high)
            search[parameter] = wanted.model_copy(update={"start": start})
    if search == study.search:
        progress.say(f"{old} searched no parameter of this study: it begins where it says, not at that winner")
    return study.model_copy(update={"search": search})


def _parameter(gene: str) -> str:
    """The parameter of a gene's name: "skill.weight[layers 0-1]" is of "weight"."""
    return gene.partition("[")[0].rpartition(".")[2]
