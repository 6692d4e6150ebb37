"""What the commands that ask models share: how they are asked, through the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genepool.tasks import OutcomeTable


def ask(
    models: Sequence[str],
    tasks: Path,
    names: Sequence[str] | None,
    split: str,
    ledger: Path | None,
    limit: int | None,
    device: str,
    dtype: str,
    trust_tasks: Sequence[Path] | None,
    allow_pickle: bool,
) -> OutcomeTable:
    """Every model on every task; what the ledger knows is not asked again."""
    from genepool import progress

    with progress.bar("loading torch"):
        from genepool.tasks import Ledger, evaluate, load_tasks
    with Ledger(ledger) as book:
        return evaluate(
            models,
            load_tasks(tasks, names, trusted=trust_tasks or ()),
            split=split,
            ledger=book,
            limit=limit,
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
        )
