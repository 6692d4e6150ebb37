"""A page with one of its sections changed."""

from __future__ import annotations

import dataclasses
from typing import Any

from genepool.report import Report
from genepool.report.sections import Section


def changed(report: Report, kind: type[Section], **fields: Any) -> Report:
    """The page whose section of a kind has other fields."""
    others = tuple(section for section in report.sections if not isinstance(section, kind))
    return dataclasses.replace(report, sections=(*others, dataclasses.replace(report[kind], **fields)))
