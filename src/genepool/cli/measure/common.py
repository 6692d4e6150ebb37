"""What the commands of `genepool measure` share: how models are asked, and how numbers are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genepool.measure import Difference, Interval
    from genepool.tasks import OutcomeTable

ModelsArgument = Annotated[list[str], typer.Argument(help="Folders, files, hub models, BASE+ADAPTER, BASE+SKILL.")]
TasksOption = Annotated[
    Path, typer.Option("--tasks", help="Folder of tasks, one task folder, one file, or lm-eval:NAME.")
]
TaskOption = Annotated[
    list[str] | None, typer.Option("--task", help="Only this task; may be given several times, and in this order.")
]
SplitOption = Annotated[str, typer.Option("--split", help="Which examples: train, valid or test.")]
LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", help="Where outcomes are kept; $GENEPOOL_LEDGER when absent.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many examples of a task.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where models compute, such as cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")]


def ask(
    models: Sequence[str],
    tasks: Path,
    names: Sequence[str] | None,
    split: str,
    ledger: Path | None,
    limit: int | None,
    device: str,
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
            allow_pickle=allow_pickle,
        )


def pairs_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping.

    Raises:
        InputError: one has no "=", or a name is given twice.
    """
    from genepool.errors import InputError

    found: dict[str, str] = {}
    for one in given or ():
        name, equals, value = one.rpartition("=")
        if not equals or not name or not value:
            raise InputError(f"'{one}' is not NAME=VALUE", where=option, fix="Write it like base+lora=reverse")
        if name in found:
            raise InputError(f"'{name}' is given twice", where=option, fix="Give it once")
        found[name] = value
    return found


def interval(found: Interval | None) -> str:
    """A mean over its interval, in two lines; a dash where there is none."""
    return "–" if found is None else f"{found.mean:.3f}\n{found.lo:.2f} {found.hi:.2f}"


def difference(found: Difference | None) -> str:
    """A difference over its interval, in two lines; a dash where there is none."""
    return "–" if found is None else f"{found.difference:+.3f}\n{found.lo:+.2f} {found.hi:+.2f}"


def number(found: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if found is None else f"{found:+.3f}"
