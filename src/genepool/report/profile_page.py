"""The page of models' profiles: tasks, tags, how far confidence can be trusted; the same as Markdown.

Draws what `genepool.measure.profile` computed; the command line writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from genepool.measure import ConfidenceProfile, Interval, Profile
from genepool.report import bars, markdown
from genepool.report.parallel_figure import ModelLine as Line
from genepool.report.parallel_figure import parallel_figure
from genepool.report.templates import NARROW, WIDE, render_page
from genepool.report.text import interval, percent
from genepool.report.trust_figure import coverage_figure, reliability_figure
from genepool.staging import write_text

_SIZE = 420.0


@dataclass(frozen=True)
class _Trusted:
    it: ConfidenceProfile
    reliability: Markup
    coverage: Markup
    told: str


@dataclass(frozen=True)
class _ProfilePanel:
    it: Profile
    summary: str
    parts: tuple[tuple[str, tuple[tuple[str, int, Interval, Markup], ...]], ...]
    trust: tuple[_Trusted, ...]


def render_profile(profiles: Sequence[Profile], facts: Mapping[str, str]) -> str:
    """The page, complete: one HTML text without any reference to the outside.

    Args:
        profiles: the models, one at least, over the same tasks.
        facts: pairs for the end of the page ("ledger", "split").
    """
    tasks = [part.name for part in profiles[0].tasks]
    lines = [Line(one.model, tuple(part.score for part in one.tasks)) for one in profiles]
    return render_page(
        "profile.html.j2",
        profiles[0].model if len(profiles) == 1 else f"{len(profiles)} models",
        panels=[_panel(one) for one in profiles],
        notices=list(dict.fromkeys(notice for one in profiles for notice in one.notices)),
        profiles=lines,
        charts=[parallel_figure(tasks, lines, width=size["width"]) for size in (WIDE, NARROW)],
        facts=facts,
    )


def write_profile(
    profiles: Sequence[Profile], facts: Mapping[str, str], path: str | Path, *, overwrite: bool = True
) -> Path:
    """Writes the profiles, whole or not at all: as Markdown when the name ends in .md, else as a page.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    write_text(
        path, (profile_markdown if path.suffix == ".md" else render_profile)(profiles, facts), overwrite=overwrite
    )
    return path


def profile_markdown(profiles: Sequence[Profile], facts: Mapping[str, str]) -> str:
    """The numbers as GitHub's Markdown, for a model card."""
    lines: list[str] = []
    for one in profiles:
        lines += [f"### {markdown.plain(one.model)}", "", markdown.plain(summary(one)), ""]
        lines += [f"> {markdown.plain(notice)}" for notice in one.notices] + ([""] if one.notices else [])
        for label, parts in (("task", one.tasks), ("tag", one.tags)):
            if parts:
                lines += [f"| {label} | n | score | 95% |", "|---|--:|--:|---|"]
                for part in parts:
                    score = part.score
                    lines.append(markdown.line(part.name, f"{part.n:,}", percent(score.mean), interval(score)))
                lines.append("")
        if one.trust:
            lines += ["| answers | n | sure | right | ECE | by chance | Brier | AUROC |", "|---|--:|" + "--:|" * 6]
            for of in one.trust:
                lines.append(markdown.line(of.task or "all", *_trust_numbers(of)))
            lines.append("")
    lines += [f"*{markdown.plain(name)}*: {markdown.plain(value)}  " for name, value in facts.items()]
    return "\n".join(lines).rstrip() + "\n"


def summary(one: Profile) -> str:
    """What it is best and worst at, and what its confidence is worth, in a sentence or three."""
    mean = one.mean
    several = len(one.tasks) > 1
    over = f"in the mean over {len(one.tasks)} tasks" if several else f"at {one.tasks[0].name}"
    said = [f"{percent(mean.mean)}% ({interval(mean)}) {over}."]
    if several:
        ordered = sorted(one.tasks, key=lambda part: part.score.mean)
        best, worst = ordered[-1], ordered[0]
        said.append(
            f"Best at {best.name} ({percent(best.score.mean)}%), worst at {worst.name} ({percent(worst.score.mean)}%)."
        )
    if one.trust and one.trust[0].calibration is not None:
        said.append(trust_sentence(one.trust[0]))
    return " ".join(said)


def trust_sentence(of: ConfidenceProfile) -> str:
    """Whether confidence can be taken at its word, in a sentence."""
    found = of.calibration
    if found is None:
        return ""
    sure, right = percent(found.confidence), percent(found.right.mean)
    if found.p >= 0.05:
        verdict = "which is no more off than chance makes a calibrated model"
    elif found.confidence > found.right.mean:
        verdict = "so it is overconfident"
    elif found.confidence < found.right.mean:
        verdict = "so it is underconfident"
    else:
        verdict = "but over some answers too sure and over others not enough"
    return f"It is {sure}% sure on average and right in {right}%, {verdict}."


def _panel(one: Profile) -> _ProfilePanel:
    groups = []
    for label, parts in (("task", one.tasks), ("tag", one.tags)):
        scores = [part.score for part in parts]
        low, high = bars.common_range(scores) if scores else (0.0, 1.0)
        groups.append(
            (
                label,
                tuple(
                    (part.name, part.n, score, bars.interval_mark(score, low, high, subject=True))
                    for part, score in zip(parts, scores, strict=True)
                ),
            )
        )
    trust = tuple(
        _Trusted(
            of,
            reliability_figure(of.calibration, size=_SIZE) if of.calibration is not None else Markup(""),
            coverage_figure(of.abstention, size=_SIZE),
            _told(of, one.risk),
        )
        for of in one.trust
    )
    return _ProfilePanel(one, summary(one), tuple(group for group in groups if group[1]), trust)


def _told(of: ConfidenceProfile, risk: float) -> str:
    kept = of.guarantee
    if of.calibration is None:
        return "Scores are by degree, so calibration is not told."
    if kept is None:
        end = f"No threshold can be vouched for that keeps wrong answers under {risk:.0%}."
    else:
        end = (
            f"Answering only from {percent(kept.threshold)}% confidence on keeps wrong answers under {risk:.0%}, in 19 "
            f"cases of 20, and answers {percent(kept.coverage)}% of the questions."
        )
    return f"{trust_sentence(of)} {end}"


def _trust_numbers(of: ConfidenceProfile) -> tuple[str, ...]:
    found, auroc = of.calibration, of.abstention.auroc
    last = "–" if auroc is None else f"{auroc:.3f}"
    if found is None:
        return (f"{of.abstention.n:,}", "–", "–", "–", "–", "–", last)
    rest = (f"{found.ece.mean:.3f}", f"{found.by_chance:.3f}", f"{found.brier.mean:.3f}")
    return (f"{found.n:,}", percent(found.confidence), percent(found.right.mean), *rest, last)
