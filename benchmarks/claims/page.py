"""Writes docs/claims.md, and docs/claims.json with the raw figures, from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claims.arms import BUDGET
from benchmarks.claims.claim import Claim, Measurement
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED, Contrast, Figure
from benchmarks.claims.worlds import KINDS, LIMITS
from genepool.staging import write_text

# A score below which an arm is said not to work at all.
_NOTHING = 0.05
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
        figures, rule = self.figures, self.claim.rule
        main = figures["main"]
        why = rule.unasked(figures)
        parts = [why] if why else []
        if max(main.first, main.second) < _NOTHING:
            parts.append("no arm works")
        elif rule.wants_more and main.hi < 0:
            parts.append("the reverse is seen")
        elif rule.wants_more and main.lo <= 0:
            parts.append("no difference seen")
        if "guard" in figures:
            guard = figures["guard"]
            parts.append(f"the skill changes by {guard.difference:+.3f} [{guard.lo:+.3f}, {guard.hi:+.3f}]")
        if "disagreement" in figures:
            parts.append(f"disagreement of the last candidates {figures['disagreement'].text()}")
        # The largest number of tasks is the main figure itself.
        sizes = [name for name in figures if name[0].isdigit()][:-1]
        parts += [f"{name}: {figures[name].text()}" for name in sizes]
        return "; ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """The raw figures."""
        return {
            "claim": self.claim.name,
            "testbed": self.kind,
            "verdict": self.verdict,
            "figures": {name: vars(figure) for name, figure in self.figures.items()},
            "seeds": [
                {"contrasts": {n: c.to_dict() for n, c in m.contrasts.items()}, "chosen": m.chosen}
                for m in self.measured
            ],
        }


def write(rows: Sequence[Row], seeds: int, unavailable: Mapping[str, Sequence[str]], folder: Path = DOCS) -> None:
    """Writes the page and the figures beside it."""
    write_text(folder / "claims.md", page(rows, seeds, unavailable))
    raw = {"schema": 1, "seeds": seeds, "rows": [row.to_dict() for row in rows]}
    write_text(folder / "claims.json", json.dumps(raw, separators=(",", ":"), default=float) + "\n")


def page(rows: Sequence[Row], seeds: int, unavailable: Mapping[str, Sequence[str]]) -> str:
    """The page's text.

    Args:
        unavailable: claims that could not be put, and the methods they lack.
    """
    claims = {row.claim.name: row.claim for row in rows}
    return "\n".join(
        [
            _HEAD.format(seeds=seeds, budget=BUDGET, **LIMITS),
            *(f"- **{kind.name}**: {kind.words}." for kind in KINDS.values()),
            "",
            "## Rules",
            "",
            "A claim holds if its rule is true. The rules were written before the measurements. A claim that fails "
            "stays failed. A *minus* B means the score of A minus the score of B.",
            "",
            *(f"- **{claim.name}**: {claim.rule.words}." for claim in claims.values()),
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
            *(f"\nNot asked yet: {name}. Missing: {', '.join(lacks)}." for name, lacks in unavailable.items()),
            "",
        ]
    )


def _tally(rows: Sequence[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNASKED)]
    return f"Of {len(rows)} rows: {', '.join(counts)}."


def by_rows(claims: Sequence[Claim], measured: Mapping[tuple[str, str, int], Measurement], seeds: int) -> list[Row]:
    """Measurements by (claim, testbed, seed) as rows, those of them that are complete."""
    rows = []
    for claim in claims:
        for kind in claim.beds:
            found = [measured[key] for seed in range(seeds) if (key := (claim.name, kind, seed)) in measured]
            if len(found) == seeds:
                rows.append(Row(claim, kind, found))
    return rows


def recorded(folder: Path = DOCS) -> dict[tuple[str, str, int], Measurement]:
    """The measurements that the figures beside the page were made of, by (claim, testbed, seed)."""
    raw = json.loads((folder / "claims.json").read_text())
    return {
        (row["claim"], row["testbed"], seed): Measurement(
            {name: Contrast.from_json(data) for name, data in found["contrasts"].items()}, found["chosen"]
        )
        for row in raw["rows"]
        for seed, found in enumerate(row["seeds"])
    }


_HEAD = """\
# Claims

This page tests what the papers say, on small models that are trained on the spot. `python -m benchmarks.claims` writes
this page, and `claims.json` with the raw figures.

What is claimed of compositions, which learn how much of each skill to use, has [a page of its own](composition.md).
So have [models that adapt to a stream](streams.md), [learning](learning.md), [learning tasks one after
another](learners.md), [samplers](samplers.md) and [policies](policies.md).

Our models are tiny, and some of the claims are about large models. "Does not hold here" is a statement about these
testbeds only.

- Each testbed is trained with {seeds} seeds.
- Each arm may try at most {budget} settings. The best setting is chosen on the validation split, with at most {valid}
  examples of each task.
- The figures come from the test split, with at most {test} examples of each task. Both arms answer the same examples.
- A figure is the difference between the scores of two arms, averaged over the seeds. At a score of 1 all answers are
  right. The brackets hold the 95% interval, and the parentheses hold the scores of the two arms.
- The interval is the wider one of two: Student's t over the differences of the seeds, and a paired bootstrap over
  examples with the seeds fixed.

## Testbeds
"""
