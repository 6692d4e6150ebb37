"""What each run took: candidates, examples computed, wall and processor time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from genepool.report import markdown
from genepool.report.sections import Section
from genepool.report.study_folder import StudyFolder
from genepool.report.text import count, duration

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes


@dataclass(frozen=True)
class Cost:
    """What one run took. None where it is not known.

    Attributes:
        name: the run.
        evaluations: candidates evaluated, and of these `failed` and `cached` (answered by the ledger alone).
        examples: examples computed, those of the ledger not counted.
        seconds, cpu_seconds: wall and processor time.
    """

    name: str
    evaluations: int | None = None
    failed: int | None = None
    cached: int | None = None
    examples: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Costs(Section):
    """What every run took."""

    costs: tuple[Cost, ...] = ()

    name = "cost"
    title = "Cost"
    order = 90

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        return cls(tuple(_cost(name, folder) for name, folder in study.folders.items() if folder.history))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        return {} if self.costs else None

    def markdown(self, report: Report) -> list[str]:
        rows = [
            (
                cost.name,
                *map(count, (cost.evaluations, cost.failed, cost.cached, cost.examples)),
                duration(cost.seconds),
                duration(cost.cpu_seconds),
            )
            for cost in self.costs
        ]
        heads = ("run", "candidates", "failed", "from the ledger", "examples computed", "wall time", "processor time")
        return ["## Cost", "", *markdown.table(heads, rows)] if rows else []

    def values(self) -> dict[str, Any]:
        return {"costs": [asdict(cost) for cost in self.costs]}


def _cost(name: str, folder: StudyFolder) -> Cost:
    spent = (folder.best or {}).get("cost", {})
    seconds = folder.wall_seconds
    return Cost(
        name,
        evaluations=len(folder.history),
        failed=sum(line["fitness"] is None for line in folder.history),
        cached=sum(bool(line["cached"]) for line in folder.history),
        examples=spent.get("examples"),
        seconds=sum(line["seconds"] for line in folder.history) if seconds is None else seconds,
        cpu_seconds=spent.get("cpu_seconds"),
    )
