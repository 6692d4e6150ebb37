"""Pages that show what was done: one HTML file that opens offline, from a study folder or any outcome table.

`collect_study(folder)` gathers a study, `report_on(table, ...)` does without one, `render_report(data)` draws,
`report_markdown` and `report_values` tell the same;
`render_inspection` draws what `genepool inspect` found. Uses merging, tasks, measure and evolution; the command line
and the demo use it.
"""

from genepool.report.collect import ExtraModel, collect_study
from genepool.report.data import (
    KINDS,
    Ability,
    Atlas,
    Change,
    Comparison,
    Cost,
    Estimate,
    Evaluation,
    Finalist,
    Flip,
    Gathering,
    GeneValue,
    Kind,
    Member,
    ModelRow,
    Origin,
    RecipePicture,
    ReferenceLine,
    ReportData,
    Rival,
    Scatter,
    ScatterPoint,
    SearchRun,
    Standing,
)
from genepool.report.inspection_page import render_inspection, write_inspection
from genepool.report.outcomes import report_on
from genepool.report.page import render_report, write_report
from genepool.report.study_text import report_markdown, report_values

__all__ = [
    "KINDS",
    "Ability",
    "Atlas",
    "Change",
    "Comparison",
    "Cost",
    "Estimate",
    "Evaluation",
    "ExtraModel",
    "Finalist",
    "Flip",
    "Gathering",
    "GeneValue",
    "Kind",
    "Member",
    "ModelRow",
    "Origin",
    "RecipePicture",
    "ReferenceLine",
    "ReportData",
    "Rival",
    "Scatter",
    "ScatterPoint",
    "SearchRun",
    "Standing",
    "collect_study",
    "render_inspection",
    "render_report",
    "report_markdown",
    "report_on",
    "report_values",
    "write_inspection",
    "write_report",
]
