"""Several models that answer together: the answer most of them give (GENOME+'s ensemble), judged on the test split.

Uses tasks and measure; the end of a study calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.evolution.candidates import Candidate
from genepool.evolution.voting import can_vote, majority
from genepool.threads import torch_threads

if TYPE_CHECKING:
    from genepool.evolution.opened_study import OpenedStudy


def tested_together(opened: OpenedStudy, members: Sequence[Candidate], ledger: Path) -> dict[str, Any]:
    """A vote of candidates on the test split.

    Args:
        opened: the study.
        members: the best first.
        ledger: where their outcomes are kept.

    Returns:
        "members" (names) and "test": by task n, mean and 95% interval. Left out are tasks whose answers are no texts,
        and those that look for something within an answer: right ones then differ in wording, and would not agree.
    """
    from genepool.measure import mean_interval
    from genepool.tasks import Ledger, evaluate

    study = opened.study
    whole = [task.name for task in opened.tasks if can_vote(task)]
    answers: dict[str, list[list[str]]] = {}
    scores: dict[str, list[list[float]]] = {}
    with (
        progress.bar("answering together", len(members), "models") as bar,
        torch_threads(study.threads),
        Ledger(ledger) as book,
    ):
        for member in members:
            table = evaluate(
                [opened.representation.source(member)],
                opened.tasks,
                split="test",
                ledger=book,
                limit=study.tasks.test,
                seed=study.seed,
                threads=study.threads,
                batch_size=study.batch,
                keep_outputs=True,
                device=opened.device,
                names=[member.name],
            )
            for task in whole:
                given = table.outputs(member.name, task)
                texts = [answer for answer in given if answer is not None]
                if len(texts) == len(given):
                    answers.setdefault(task, []).append(texts)
                    scores.setdefault(task, []).append(table.scores(member.name, task).tolist())
            bar.advance()
    test = {}
    for task, given_by in answers.items():
        if len(given_by) == len(members):
            voted = majority(given_by, scores[task])
            mean, low, high = mean_interval(voted)
            test[task] = {"n": len(voted), "mean": mean, "lo": low, "hi": high}
    return {"members": [member.name for member in members], "test": test}
