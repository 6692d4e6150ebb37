"""Pages that show what was done: one HTML file that opens offline, from a study folder or any outcome table.

`collect_study(folder)` gathers a study, `report_on(table, ...)` does without one, `render_report(report)` draws,
`report_markdown` and `report_values` tell the same; what a page shows is in `sections/`, one file each.
`render_inspection` draws what `genepool inspect` found. Uses merging, tasks, measure and evolution; the command line
and the demo use it.
"""

from genepool.report.collect import collect_study, report_on
from genepool.report.inspection_page import render_inspection, write_inspection
from genepool.report.kinds import KINDS, Kind
from genepool.report.page import Report, render_report, report_markdown, report_values, write_report
from genepool.report.study_outcomes import ExtraModel

__all__ = [
    "KINDS",
    "ExtraModel",
    "Kind",
    "Report",
    "collect_study",
    "render_inspection",
    "render_report",
    "report_markdown",
    "report_on",
    "report_values",
    "write_inspection",
    "write_report",
]
