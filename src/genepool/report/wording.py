"""What a study's page says in sentences: its title, what was done, and what the reader must know first.

Uses what was collected of the study; `collect` puts the words at the top of the page.
"""

from __future__ import annotations

from genepool.errors import listed
from genepool.report.study_outcomes import StudyOutcomes, evolve_command
from genepool.report.text import percent

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def title(study: StudyOutcomes) -> str:
    """The heading."""
    count = len(study.skills)
    return f"{_word(count).capitalize()} {'skill' if count == 1 else 'skills'} in one model"


def summary(study: StudyOutcomes) -> str:
    """What was done and what came of it, in a sentence or four."""
    parts = (_searched, _judged, _tested, _luck, _vote, _beside)
    return "".join(part(study) for part in parts) + "."


def notices(study: StudyOutcomes) -> list[str]:
    """What the reader must know first, one sentence or two each."""
    found = list(study.troubles)
    for name, folder in study.folders.items():
        if folder.best is None:
            budget = folder.study.budget.evaluations
            of = f" of {budget:,}" if budget is not None else ""
            found.append(
                f"The study {folder.path.name} ({name}) is unfinished: {len(folder.history):,}{of} evaluations are "
                f"done, and nothing has been tested yet. To go on: {evolve_command(folder)}"
            )
        elif name not in study.test.models and study.tasks:
            found.append(
                f"The ledger {study.ledger} does not hold the test outcomes of {name}, so nothing is compared "
                "example by example. Name the right one with --ledger."
            )
    return found


def _searched(study: StudyOutcomes) -> str:
    tried = study.study.vary.tried(listed(study.skills))
    return f"{study.folder.strategy} tried {len(study.folder.history):,} {tried}"


def _judged(study: StudyOutcomes) -> str:
    said, finalists = "", len(study.folder.finalists)
    if study.tasks:
        examples = max(len(task.examples("valid")[: study.study.tasks.valid]) for task in study.tasks)
        each = f"each of {_word(len(study.tasks))} tasks" if len(study.tasks) > 1 else study.tasks[0].name
        said = f", scored on {examples:,} validation examples of {each}"
    if finalists:
        said += f"; the best {_word(finalists)} were judged again on every validation example"
    return said


def _tested(study: StudyOutcomes) -> str:
    if study.folder.best is None or not study.tested:
        return ""
    count = len(study.test.examples(study.test.tasks[0]))
    return f"; the winner was written, read back and tested once on {count:,} unseen examples of each"


def _luck(study: StudyOutcomes) -> str:
    curse = (study.folder.best or {}).get("curse", {})
    if "searched" not in curse:
        return ""
    said = [f"{percent(curse['searched'])}% in the search"]
    if "fresh" in curse:
        said.append(f"{percent(curse['fresh'])}% on validation examples it was not chosen by")
    return f". Its mean: {', '.join(said)}, {percent(curse['test'])}% on test"


def _vote(study: StudyOutcomes) -> str:
    vote = (study.folder.best or {}).get("ensemble", {})
    if not vote.get("test"):
        return ""
    mean = sum(score["mean"] for score in vote["test"].values()) / len(vote["test"])
    together = f"The best {_word(len(vote['members']))} answering together, by majority vote"
    return f". {together}: {percent(mean)}% on test"


def _beside(study: StudyOutcomes) -> str:
    equal = [name for name in study.folders if name != study.subject and study.same_budget(name)]
    if not equal:
        return ""
    named = listed(equal)
    verb = "stands" if len(equal) == 1 else "stand"
    return f". {named[:1].upper()}{named[1:]} {verb} beside it at an equal budget"


def _word(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else f"{count:,}"
