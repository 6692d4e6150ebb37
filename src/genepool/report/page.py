"""The page of a study: sections one after the other, as HTML, as Markdown and as plain values; the same numbers.

Uses the sections and the templates; the command line and the demo call `write_report` and `report_values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genepool.report import markdown
from genepool.report.sections import Section, all_sections
from genepool.report.templates import render_page
from genepool.report.text import clean
from genepool.staging import write_text

_Kind = TypeVar("_Kind", bound=Section)


@dataclass(frozen=True)
class Report:
    """Everything one page shows. Only `title` is needed.

    Attributes:
        title: the heading.
        headline: one sentence: what was gained and lost; the page opens with it.
        summary: one sentence: what was done.
        notices: what the reader must know first (an unfinished search), one sentence each.
        subject: name of the model the page is about; its row is marked.
        sections: what the page shows, in any order, one of a kind.
        finished: whether everything the page is about had come to its end.
    """

    title: str
    headline: str = ""
    summary: str = ""
    notices: tuple[str, ...] = ()
    subject: str = ""
    sections: tuple[Section, ...] = ()
    finished: bool = True

    def __getitem__(self, kind: type[_Kind]) -> _Kind:
        """The section of a kind; one that shows nothing where the page has none."""
        return next((section for section in self.sections if isinstance(section, kind)), kind())


def render_report(report: Report) -> str:
    """The page, complete: one HTML text without any reference to the outside.

    Args:
        report: what to show; sections without data are left out.

    Returns:
        HTML, safe to write as UTF-8 whatever prompts and outputs hold.
    """
    drawn = [(section, html) for kind in all_sections() if (html := (section := report[kind]).html(report))]
    names = [section.name for section in all_sections()]
    return render_page("report.html.j2", report.title, sections=names, report=report, drawn=drawn)


def report_markdown(report: Report) -> str:
    """The numbers of the page; sections without data are left out."""
    lines = [f"# {markdown.plain(clean(report.title))}", ""]
    for sentence in filter(None, (report.headline, report.summary)):
        lines += [markdown.plain(clean(sentence)), ""]
    for notice in report.notices:
        lines += [f"> {markdown.plain(clean(notice))}", ""]
    for kind in all_sections():
        lines += report[kind].markdown(report)
    return clean("\n".join(lines).rstrip() + "\n")


def report_values(report: Report) -> dict[str, Any]:
    """The numbers of the page as plain values; shares and differences between 0 and 1, times in seconds.

    Of trade-offs it names the front of every two objectives; the flipped examples are left to the page.
    """
    found: dict[str, Any] = {
        "finished": report.finished,
        "title": report.title,
        "headline": report.headline,
        "summary": report.summary,
        "notices": list(report.notices),
        "subject": report.subject,
    }
    for kind in all_sections():
        found |= report[kind].values()
    return found


def write_report(report: Report, path: str | Path, *, overwrite: bool = True) -> Path:
    """Writes the page, whole or not at all, and returns where it is; as Markdown when the name ends in .md.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    write_text(path, (report_markdown if path.suffix == ".md" else render_report)(report), overwrite=overwrite)
    return path
