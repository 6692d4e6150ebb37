"""Writes docs/claims.md, and docs/claims.json with the raw figures, from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claims.arms import BUDGET
from benchmarks.claims.rows import Claim, Measurement
from benchmarks.claims.verdict import Figure
from benchmarks.claims.worlds import KINDS, LIMITS
from genepool.staging import write_text

DOCS = Path(__file__).parent.parent.parent / "docs"


@dataclass(frozen=True)
class Row:
    """One claim on one testbed.

    Attributes:
        measured: one measurement a seed.
    """

    claim: Claim
    kind: str
    measured: Sequence[Measurement]

    @property
    def figures(self) -> dict[str, Figure]:
        """Every contrast over the seeds."""
        return {name: Figure.of([m.contrasts[name] for m in self.measured]) for name in self.measured[0].contrasts}

    @property
    def verdict(self) -> str:
        """One of three."""
        return self.claim.rule.verdict(self.figures)

    def remark(self) -> str:
        """One line beside the verdict, of figures alone."""
        figures = self.figures
        main = figures["main"]
        parts = [figures_why] if (figures_why := self.claim.rule.unasked(figures)) else []
        if max(main.first, main.second) < 0.05:
            parts.append("no arm works")
        elif main.hi < 0:
            parts.append("the reverse is seen")
        elif main.lo <= 0 <= main.hi and "is above 0" in self.claim.rule.words:
            parts.append("no difference seen")
        if "guard" in figures:
            parts.append(f"at a cost of {-figures['guard'].difference:+.3f} [{-figures['guard'].hi:+.3f}, "
                         f"{-figures['guard'].lo:+.3f}]")  # fmt: skip
        parts += [f"{name}: {figure.text()}" for name, figure in figures.items() if name[0].isdigit()]
        return "; ".join(parts)

    def as_json(self) -> dict[str, object]:
        """The raw figures."""
        return {
            "claim": self.claim.name,
            "testbed": self.kind,
            "verdict": self.verdict,
            "figures": {name: vars(figure) for name, figure in self.figures.items()},
            "seeds": [
                {"contrasts": {n: c.as_json() for n, c in m.contrasts.items()}, "chosen": m.chosen}
                for m in self.measured
            ],
        }


def write(rows: Sequence[Row], seeds: int, folder: Path = DOCS) -> None:
    """Writes the page and the figures beside it."""
    write_text(folder / "claims.md", page(rows, seeds))
    raw = {"schema": 1, "seeds": seeds, "rows": [row.as_json() for row in rows]}
    write_text(folder / "claims.json", json.dumps(raw, separators=(",", ":"), default=float) + "\n")


def page(rows: Sequence[Row], seeds: int) -> str:
    """The page's text."""
    claims = {row.claim.name: row.claim for row in rows}
    return "\n".join(
        [
            _HEAD.format(seeds=seeds, budget=BUDGET, **LIMITS),
            *(f"- **{kind.name}**: {kind.words}." for kind in KINDS.values()),
            "",
            "## Rules",
            "",
            "Written before the figures. A claim that fails stays failed.",
            "",
            *(f"- **{claim.name}** holds when {claim.rule.words}." for claim in claims.values()),
            "",
            "## Figures",
            "",
            "| claim | source | testbed | our figure | verdict | remark |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row.claim.words} ({row.claim.name}) | {row.claim.source} | {row.kind} | "
                f"{row.figures['main'].text()} | {row.verdict} | {row.remark()} |"
                for row in rows
            ),
            "",
            _tally(rows),
            "",
        ]
    )


def _tally(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return "In all: " + ", ".join(f"{count} rows {verdict}" for verdict, count in counts.items()) + "."


def by_rows(claims: Sequence[Claim], measured: Mapping[tuple[str, str, int], Measurement], seeds: int) -> list[Row]:
    """Measurements by (claim, testbed, seed) as rows, those of them that are complete."""
    rows = []
    for claim in claims:
        for kind in claim.beds:
            found = [measured[key] for seed in range(seeds) if (key := (claim.name, kind, seed)) in measured]
            if len(found) == seeds:
                rows.append(Row(claim, kind, found))
    return rows


_HEAD = """\
# Claims

What the papers say, asked again on small models trained on the spot. `python -m benchmarks.claims` makes this page, and
`claims.json` with the raw figures beside it.

Our models are tiny, and some of these claims are about large ones: "does not hold here" is said of here. Each testbed
is trained with {seeds} seeds. Settings are chosen on the validation split ({valid} examples a task at most), at most
{budget} settings for every arm; figures are of the test split ({test} at most). A figure is the difference of two arms'
scores (1 is everything right), the mean over the seeds, with its 95% interval in brackets and the two arms' own scores
in parentheses. Both arms answer the same examples. The interval is the wider of two: Student's t over the seeds'
differences, and a paired bootstrap over examples with the seeds fixed.

## Testbeds
"""
