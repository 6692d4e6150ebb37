"""Does the cost of a merge grow in proportion to its parameters and its models? Sizes, then models, and the lines.

Two methods stand for the rest: linear, which touches every number once, and TIES per tensor, which selects. genepool
alone; the floor beside it reads exactly the files the merge reads.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Figures, median, paired_ratio, table, tell, time_in_turn
from benchmarks.merge import checkpoints
from benchmarks.merge.rows import mergekit_recipe
from benchmarks.merge.side_by_side import Settings, cache_warning, machine
from genepool.errors import InputError

SIZES = (0.1, 0.25, 0.5, 1.0, 2.0)
EXPERTS = (2, 3, 4, 5, 6, 7, 8)
METHODS = ("linear", "ties")
_COUNT = 3


@dataclass(frozen=True)
class Point:
    """One merge of the line.

    Attributes:
        x: billions of parameters, or fine-tunes.
        runs: the runs of "floor", "start" (the same merge of narrow models) and "merge".
    """

    x: float
    runs: Mapping[str, Sequence[Figures]]

    @property
    def wall(self) -> float:
        """Wall seconds of the merge, start-up and all."""
        return median(self.runs["merge"]).wall


@dataclass(frozen=True)
class Line:
    """`intercept + slope * x`, fitted by least squares.

    Attributes:
        residual: root mean square of what is left, as a share of the mean.
        largest: the largest of it, as a share of the value it belongs to.
    """

    slope: float
    intercept: float
    residual: float
    largest: float

    def __call__(self, x: float) -> float:
        """The line's value."""
        return self.intercept + self.slope * x


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The straight line through (x, y) pairs; needs two different x and positive y."""
    xs, ys = zip(*points, strict=True)
    slope, intercept = statistics.linear_regression(xs, ys)
    left = [y - (intercept + slope * x) for x, y in points]
    rms = math.sqrt(statistics.fmean(rest * rest for rest in left))
    return Line(slope, intercept, rms / statistics.fmean(ys), max(abs(r) / y for r, y in zip(left, ys, strict=True)))


def run(settings: Settings, sizes: Sequence[float] = SIZES, figure: Path | None = None) -> str:
    """Both tables with their lines, as Markdown; a picture of them in `figure`."""
    by_size: dict[str, list[Point]] = {method: [] for method in METHODS}
    left_out = []
    for billions in sizes:
        layout = checkpoints.layout_of(billions)
        for method in METHODS:
            names = _inputs(method, _COUNT)
            size = 2 * layout.parameters
            if warning := cache_warning((len(names) + 1) * size):
                left_out.append(f"{method} at {billions:g}B was not run: {warning}.")
                tell(left_out[-1])
                continue
            folder = checkpoints.make(settings.work / f"llama-{billions:g}B", layout, _COUNT)
            narrow = checkpoints.make_narrow(settings.work, billions, _COUNT)
            by_size[method].append(_measure(method, names, folder, narrow, layout.parameters / 1e9, settings))
    if not any(by_size.values()):
        raise InputError("none of the sizes fits in memory", where="--sizes", fix="Name smaller ones")
    smallest = checkpoints.layout_of(min(sizes))
    folder = checkpoints.make(settings.work / f"llama-{min(sizes):g}B", smallest, max(EXPERTS))
    narrow = checkpoints.make_narrow(settings.work, min(sizes), max(EXPERTS))
    by_models = {
        method: [_measure(method, _inputs(method, count), folder, narrow, count, settings) for count in EXPERTS]
        for method in METHODS
    }
    if figure is not None:
        # Drawing takes genepool's report, which nobody needs who only wants the tables.
        from benchmarks.merge.scaling_figure import draw

        figure.write_text(draw(by_size, by_models))
        tell(f"drew {figure}")
    head = (
        f"{machine()}. Rounds that count: {settings.rounds}, medians; linear reads the fine-tunes, ties also the base. "
    )
    text = table(
        "Cost against parameters",
        head + f"{_COUNT} fine-tunes. " + " ".join(left_out),
        ("billions", *_header()),
        _rows(by_size, ".2f"),
    )
    text += "\n" + "".join(f"- {line}\n" for line in _lines(by_size, "billion parameters"))
    text += "\n" + table(
        "Cost against models",
        head + f"{smallest.parameters / 1e9:.2f}B parameters.",
        ("fine-tunes", *_header()),
        _rows(by_models, ".0f"),
    )
    return text + "\n" + "".join(f"- {line}\n" for line in _lines(by_models, "fine-tune"))


def _inputs(method: str, experts: int) -> list[str]:
    names = checkpoints.model_names(experts)
    return names if method == "ties" else names[1:]


def _measure(method: str, names: Sequence[str], folder: Path, narrow: Path, x: float, settings: Settings) -> Point:
    recipe = _recipe(method, names, folder, settings)
    commands = {
        "floor": settings.floor([checkpoints.weights_file(folder, name) for name in names]),
        "start": settings.merge(_recipe(method, names, narrow, settings), "start"),
        "merge": settings.merge(recipe),
    }
    point = Point(x, time_in_turn(commands, settings.rounds, between=settings.clear))
    settings.keep({"scaling": method, "folder": folder.name, "models": len(names)}, point.runs)
    tell(f"{method}, {folder.name}, {len(names)} models: {point.wall:.1f} s")
    return point


def _recipe(method: str, names: Sequence[str], folder: Path, settings: Settings) -> Path:
    own = {"weight": 1.0, "density": 0.2} if method == "ties" else {"weight": 1.0}
    models = [folder / name for name in names]
    base = models.pop(0) if names[0] == checkpoints.BASE else None
    recipe = settings.work / "recipes" / f"scaling-{method}-{folder.name}-{len(models)}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(mergekit_recipe(method, base, models, own, {}))
    return recipe


def _header() -> list[str]:
    return [
        f"{method}, {what}" for method in METHODS for what in ("wall s", "CPU s", "anonymous GB", "beyond start-up")
    ]


def _rows(curves: Mapping[str, Sequence[Point]], form: str) -> list[list[str]]:
    found = {method: {point.x: point for point in points} for method, points in curves.items()}
    lines = []
    for x in sorted({x for points in found.values() for x in points}):
        cells = [format(x, form)]
        for method in METHODS:
            cells += _cells(found[method][x]) if x in found[method] else ["", "", "", ""]
        lines.append(cells)
    return lines


def _cells(point: Point) -> list[str]:
    middle = median(point.runs["merge"])
    beyond = paired_ratio(point.runs["merge"], point.runs["floor"], point.runs["start"])
    return [f"{middle.wall:.1f}", f"{middle.cpu:.1f}", f"{middle.anonymous:.2f}", f"{beyond:.1f}"]


def _lines(curves: Mapping[str, Sequence[Point]], unit: str) -> list[str]:
    lines = []
    for method, points in curves.items():
        if len(points) < 3:
            lines.append(f"{method}: too few points for a line.")
            continue
        line = fit([(point.x, point.wall) for point in points])
        lines.append(
            f"{method}: {line.intercept:.2f} s + {line.slope:.2f} s per {unit}; what the line leaves is "
            f"{line.residual:.1%} of the mean (root mean square), at most {line.largest:.1%} of a value."
        )
    return lines
