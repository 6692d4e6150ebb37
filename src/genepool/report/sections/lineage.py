"""Where each model came from, what the study was, and the command lines that reproduce it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from genepool.errors import listed
from genepool.report import markdown
from genepool.report.sections import Section
from genepool.report.study_outcomes import Origin, StudyOutcomes
from genepool.report.text import clean

if TYPE_CHECKING:
    from genepool.report.page import Report


@dataclass(frozen=True)
class Lineage(Section):
    """The end of the page.

    Attributes:
        models: where each model came from.
        commands: command lines that reproduce the result, in order.
        facts: further pairs ("seed", "tasks").
    """

    models: tuple[Origin, ...] = ()
    commands: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    name = "lineage"
    title = "Lineage"
    order = 100

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        return cls(tuple(study.origins), study.commands, _facts(study))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        return {} if self.models or self.commands or self.facts else None

    def markdown(self, report: Report) -> list[str]:
        lines = [f"*{markdown.plain(name)}*: {markdown.plain(value)}  " for name, value in self.facts]
        lines += [""] if lines else []
        if self.commands:
            lines += ["To reproduce:", "", *markdown.fenced(clean("\n".join(self.commands)))]
        return lines

    def values(self) -> dict[str, Any]:
        return {
            "lineage": [asdict(origin) for origin in self.models],
            "commands": list(self.commands),
            "facts": dict(self.facts),
        }


def _facts(study: StudyOutcomes) -> tuple[tuple[str, str], ...]:
    asked = study.study.tasks
    valid, test = ("all" if limit is None else f"{limit:,} per task" for limit in (asked.valid, asked.test))
    return (
        ("method", study.study.how),
        ("seed", str(study.study.seed)),
        ("tasks", f"{study.place(asked.dir)} ({listed(list(study.groups))})"),
        ("validation examples", valid),
        ("test examples", test),
        ("ledger", study.place(str(study.ledger))),
        ("genepool", version("genepool")),
    )
