"""Sections of a study's page: one a file beside this one, found by being there.

A section says what it collects from a study, and how that looks as HTML (a template beside it, by its name), as
Markdown and as JSON. Uses the report's figures and words; `page` puts the sections together.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from markupsafe import Markup

from genepool.folder_classes import classes_of
from genepool.report.templates import fill

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes


class Section(ABC):
    """A part of a study's page: a frozen dataclass of what it shows, every field with a default that shows nothing.

    Beside the file of the section stands its template, `NAME.html.j2`, which is given the section as `it`, the page as
    `report`, and what `drawn` returns; `NAME.css` and `NAME.js` are put into the page where they exist.

    Attributes:
        name: its id in the page, and the name of its files.
        title: what the page's navigation calls it; a section without a title stands in the page's header.
        order: its place among the sections, smaller is further up.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    order: ClassVar[int]

    @classmethod
    @abstractmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        """What a study has for this section; None when it has nothing."""

    @abstractmethod
    def drawn(self, report: Report) -> dict[str, Any] | None:
        """What the template names beside `it` and `report`; None when there is nothing to show."""

    def html(self, report: Report) -> Markup:
        """The section as HTML; empty when there is nothing to show."""
        values = self.drawn(report)
        if values is None:
            return Markup("")
        return fill(f"sections/{self.name}.html.j2", it=self, report=report, **values)

    def markdown(self, report: Report) -> list[str]:
        """The section as lines of Markdown, an empty one last; none when there is nothing to tell."""
        return []

    def values(self) -> dict[str, Any]:
        """What the section adds to the JSON form, by key; a key is there even when there is nothing to tell."""
        return {}


@functools.cache
def all_sections() -> tuple[type[Section], ...]:
    """Every section, in the order of the page."""
    return tuple(sorted(classes_of(__name__, Section), key=lambda section: section.order))
