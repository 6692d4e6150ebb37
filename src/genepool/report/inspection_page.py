"""The page of an inspection: facts, fit, distance from the base, how the changes agree, and their effective rank.

Uses what merging found and the frame, colours and figures of the report; the command line writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from genepool.merging.inspection import Deltas, EffectiveRanks, Inspection
from genepool.merging.inspection.result import Row
from genepool.merging.inspection.wording import DASH, cosine_text, rank_text, relative_text, share_text, short_labels
from genepool.report.layers_figure import layers_figure
from genepool.report.templates import render_page
from genepool.staging import write_text

_WIDE = {"width": 960.0, "height": 300.0}
_NARROW = {"width": 380.0, "height": 240.0}


@dataclass(frozen=True)
class GridCell:
    """A number of a coloured table: as text, as it goes into a CSV, and where it lies on the colour scale, in [0, 1].

    `shade` is None for a cell without colour, `exact` None for one without a number. `spread` are the lowest and the
    highest of the numbers that a mean was taken of.
    """

    text: str
    exact: float | None
    shade: float | None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Grid:
    """A coloured table.

    Attributes:
        name: what it shows.
        corner: what the rows are.
        heads: column headings.
        rows: (heading, full name or empty, cells).
    """

    name: str
    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[GridCell, ...]], ...]


@dataclass(frozen=True)
class Curves:
    """A number per layer of one stack: the picture, wide and narrow, and the same as a table."""

    stack: str
    charts: tuple[Markup, Markup]
    grid: Grid


def render_inspection(inspection: Inspection) -> str:
    """The page, complete: one HTML text without any reference to the outside."""
    names = [facts.name for facts in inspection.models]
    deltas, ranks = inspection.deltas, inspection.ranks
    labels = short_labels(names)
    changed = labels[1:] if deltas else []
    return render_page(
        "inspect.html.j2",
        _title(labels),
        it=inspection,
        labels=dict(zip(names, labels, strict=True)),
        changed=changed,
        sizes=_sizes(inspection, labels),
        distance=_distance(deltas, changed) if deltas else None,
        norm_curves=_curves(deltas, changed, [(place, deltas.relative(layer=place)) for place in deltas.layers], "%")
        if deltas
        else [],
        agreement=_agreement(deltas, changed) if deltas and len(changed) > 1 else [],
        rank_grid=_rank_grid(deltas, ranks, changed) if deltas and ranks else None,
        rank_curves=_curves(deltas, changed, _ranks_by_layer(deltas, ranks), "", ranks) if deltas and ranks else [],
    )


def write_inspection(inspection: Inspection, path: str | Path, *, overwrite: bool = True) -> Path:
    """Writes the page, whole or not at all, and returns where it is.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    write_text(Path(path), render_inspection(inspection), overwrite=overwrite)
    return Path(path)


def _title(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    return f"{labels[0]} and {labels[1] if len(labels) == 2 else f'{len(labels) - 1} models'}"


def _sizes(inspection: Inspection, labels: Sequence[str]) -> Grid:
    parts = list(dict.fromkeys(part for facts in inspection.models for part in facts.parts))
    rows = []
    for label, facts in zip(labels, inspection.models, strict=True):
        sizes = [facts.parts.get(part, (0, 0)) for part in parts]
        cells = tuple(GridCell(f"{n:,}" if tensors else DASH, n if tensors else None, None) for tensors, n in sizes)
        rows.append((label, facts.name, cells))
    return Grid("parameters by part", "model", tuple(parts), tuple(rows))


def _distance(deltas: Deltas, labels: Sequence[str]) -> Grid:
    columns = [deltas.relative(), *(deltas.relative(part=part) for part in deltas.parts)]
    top = max((value for column in columns for value in column if value is not None), default=0.0)
    rows = []
    for i, label in enumerate(labels):
        cells = [GridCell(relative_text(c[i]), c[i], _shade(c[i], top)) for c in columns]
        moved = deltas.moved[i]
        rows.append((label, deltas.models[i], (*cells, GridCell(share_text(moved), moved, None))))
    return Grid("distance from the base", "model", ("in all", *deltas.parts, "entries changed"), tuple(rows))


def _agreement(deltas: Deltas, labels: Sequence[str]) -> list[Grid]:
    grids = []
    # Both are coloured by how far they are from what two unrelated changes have.
    for name, matrix, shown, neutral, reach in (
        ("cosine", deltas.cosine, cosine_text, 0.0, 1.0),
        ("sign conflict", deltas.sign_conflict, share_text, 0.5, 0.5),
    ):
        rows = tuple(
            (
                label,
                deltas.models[i],
                tuple(
                    GridCell(DASH, None, None)
                    if i == j
                    else GridCell(shown(value), value, None if value is None else abs(value - neutral) / reach)
                    for j, value in enumerate(matrix[i])
                ),
            )
            for i, label in enumerate(labels)
        )
        grids.append(Grid(name, "", tuple(labels), rows))
    return grids


def _rank_grid(deltas: Deltas, ranks: EffectiveRanks, labels: Sequence[str]) -> Grid:
    parts = [part for part in deltas.parts if ranks.mean(part=part)]
    sides = [max(matrix.side for matrix in ranks.matrices if matrix.part == part) for part in parts]
    columns = [ranks.mean(part=part) for part in parts]
    rows = tuple(
        (
            label,
            deltas.models[i],
            tuple(
                GridCell(rank_text(c[i]), c[i], _shade(c[i], float(side)))
                for c, side in zip(columns, sides, strict=True)
            ),
        )
        for i, label in enumerate(labels)
    )
    heads = tuple(f"{part} (at most {side:,})" for part, side in zip(parts, sides, strict=True))
    return Grid("effective rank", "model", heads, rows)


def _ranks_by_layer(deltas: Deltas, ranks: EffectiveRanks) -> list[tuple[tuple[str, int], Row]]:
    return [(place, row) for place in deltas.layers if (row := ranks.mean(layer=place))]


def _curves(
    deltas: Deltas,
    labels: Sequence[str],
    rows: Sequence[tuple[tuple[str, int], Row]],
    unit: str,
    ranks: EffectiveRanks | None = None,
) -> list[Curves]:
    """One entry per stack of layers; with `ranks`, the numbers are means over their matrices."""
    scale, shown = (100.0, relative_text) if unit == "%" else (1.0, rank_text)
    what = "relative change" if unit == "%" else "effective rank"
    found = []
    for stack in dict.fromkeys(stack for stack, _ in deltas.layers):
        own = [(layer, row) for (where, layer), row in rows if where == stack]
        if not own:
            continue
        lines = [[(layer, scale * v) for layer, row in own if (v := row[i]) is not None] for i in range(len(labels))]
        ends = {(layer, i): _spread(ranks, stack, layer, i) for layer, _ in own for i in range(len(labels))}
        spreads = [[(k, *both) for (k, j), both in ends.items() if both and j == i] for i in range(len(labels))]
        charts = tuple(
            layers_figure(lines, f"{what} by layer of {stack or 'the model'}", spreads=spreads, unit=unit, **size)
            for size in (_WIDE, _NARROW)
        )
        top = max((value for _, row in own for value in row if value is not None), default=0.0)
        body = tuple(
            (
                str(layer),
                "",
                tuple(GridCell(shown(value), value, _shade(value, top), ends[layer, i]) for i, value in enumerate(row)),
            )
            for layer, row in own
        )
        grid = Grid(f"{what} by layer{f' of {stack}' if stack else ''}", "layer", tuple(labels), body)
        found.append(Curves(stack, (charts[0], charts[1]), grid))
    return found


def _spread(ranks: EffectiveRanks | None, stack: str, layer: int, model: int) -> tuple[float, float] | None:
    """The lowest and the highest effective rank of a model's matrices in a layer; None where nothing was averaged."""
    matrices = ranks.matrices if ranks is not None else ()
    found = [m.values[model] for m in matrices if (m.stack, m.layer) == (stack, layer)]
    known = [value for value in found if value is not None]
    return (min(known), max(known)) if known else None


def _shade(value: float | None, top: float) -> float | None:
    return None if value is None or not top else min(abs(value) / top, 1.0)
