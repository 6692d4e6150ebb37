"""Pages that show what was done: one HTML file that opens offline, from a study folder or any outcome table.

`render_report(ReportData)` draws; `collect_study(folder)` gathers. Uses tasks, measure and evolve; the command line and
the demo use it.
"""

from genepool.report.data import (
    KINDS,
    Ability,
    Change,
    Comparison,
    Cost,
    Estimate,
    Evaluation,
    Flip,
    GeneValue,
    Kind,
    ModelRow,
    Origin,
    RecipePicture,
    ReferenceLine,
    ReportData,
    Rival,
    SearchRun,
    Standing,
)
from genepool.report.page import render_report

__all__ = [
    "KINDS",
    "Ability",
    "Change",
    "Comparison",
    "Cost",
    "Estimate",
    "Evaluation",
    "Flip",
    "GeneValue",
    "Kind",
    "ModelRow",
    "Origin",
    "RecipePicture",
    "ReferenceLine",
    "ReportData",
    "Rival",
    "SearchRun",
    "Standing",
    "render_report",
]
