"""Tables on a terminal. A table that is wider than the terminal is printed in parts, so no cell is ever cut.

What goes into a cell is text, never markup: names come from other people's files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from genepool.checked import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
    from rich.table import Table
    from rich.text import Text

    from genepool.faithful import HeldAgainst
    from genepool.measure import CrossMatrix
    from genepool.tasks import OutcomeTable

# The width of what no terminal shows, where $COLUMNS does not say it.
_WIDTH = 140
# Columns of running text are wrapped, but not below this width.
_PROSE = 14
# A word of a head that is no longer than this stays whole.
_WORD = 12


class TextTable:
    """A table: names down the left, and columns of numbers or of running text.

    Where the terminal is too narrow for all columns, further tables with the same first column show the others.

    Args:
        corner: head of the first column.
        heads: heads of the other columns.
        title: a line above.
        prose: the heads whose columns hold sentences, which are wrapped; all others are set right and kept whole.
        note: a line below.
    """

    def __init__(
        self, corner: str, heads: Sequence[str], *, title: str = "", prose: Collection[str] = (), note: str = ""
    ) -> None:
        self.corner, self.heads = printable(corner), tuple(map(printable, heads))
        self.prose, self.title, self.note = frozenset(map(printable, prose)), title, note
        self._rows: list[tuple[str, ...]] = []
        self._ends: set[int] = set()

    def add_row(self, *cells: str) -> None:
        """Adds a row; cells that are missing at its end are empty. A cell may have several lines."""
        shown = ["\n".join(map(printable, cell.split("\n"))) for cell in cells]
        self._rows.append((*shown, *[""] * (1 + len(self.heads) - len(shown))))

    def add_section(self) -> None:
        """Leaves a gap below the last row."""
        self._ends.add(len(self._rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        parts = list(self._parts(options.max_width))
        for number, columns in enumerate(parts):
            table = self._table(columns, options.max_width)
            table.title = _text(printable(self.title)) if self.title and not number else None
            yield table
        if self.note:
            yield _text(printable(self.note))

    def _parts(self, width: int) -> Iterator[list[int]]:
        """The columns, by number, of the tables that fit one below the other; each has one column at least."""
        columns: list[int] = []
        for column in range(len(self.heads)):
            least = [self._widths(each, width)[0] for each in (-1, *columns, column)]
            if columns and sum(least) > _room(len(least), width):
                yield columns
                columns = []
            columns.append(column)
        yield columns

    def _table(self, columns: Sequence[int], width: int) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        chosen = _shared_out([self._widths(each, width) for each in (-1, *columns)], _room(1 + len(columns), width))
        table.add_column(_text(self.corner), overflow="fold", width=chosen[0])
        for column, wide in zip(columns, chosen[1:], strict=True):
            head = self.heads[column]
            justify: JustifyMethod = "left" if head in self.prose else "right"
            table.add_column(_text(head), justify=justify, overflow="fold", width=wide)
        for number, row in enumerate(self._rows):
            cells = [row[0], *(row[1 + column] for column in columns)]
            table.add_row(*map(_text, cells), end_section=number in self._ends)
        return table

    def _widths(self, column: int, width: int) -> tuple[int, int]:
        """The smallest and the largest width of a column; -1 is that of the names."""
        head = self.corner if column < 0 else self.heads[column]
        most = max(self._longest(1 + column), len(head), 1)
        if column < 0:
            # A name may take a third of the line; longer ones go on in the next.
            return min(most, max(width // 3, 12)), most
        if head in self.prose:
            return min(most, _PROSE), most
        # The head may go over several lines, a number may not.
        word = max(map(len, head.split()), default=1)
        return min(max(self._longest(1 + column), min(word, _WORD)), max(width // 2, 12)), most

    def _longest(self, place: int) -> int:
        """Characters of the longest line of a column's cells."""
        return max((len(line) for row in self._rows for line in row[place].split("\n")), default=0)


def _room(columns: int, width: int) -> int:
    """Characters left for the cells of a table: rich puts a space on both sides of each, and one between two."""
    return width - 3 * columns - 1


def _shared_out(widths: Sequence[tuple[int, int]], room: int) -> list[int]:
    """The width of each column: its smallest, and what is left goes to the narrowest of those that want more."""
    chosen = [least for least, _ in widths]
    for _ in range(max(room - sum(chosen), 0)):
        growing = [i for i, (_, most) in enumerate(widths) if chosen[i] < most]
        if not growing:
            break
        chosen[min(growing, key=lambda i: chosen[i])] += 1
    return chosen


def _text(cell: str) -> Text:
    from rich.text import Text

    return Text(cell)


def print_text(text: str, *, bold: str = "") -> None:
    """Prints text on stdout as it is: no markup, nothing wrapped, escapes in place of what would act on a terminal.

    Args:
        text: one line or several.
        bold: printed before it, in bold where stdout is a terminal.
    """
    shown = "\n".join(map(printable, text.split("\n")))
    if not bold:
        print(shown)
        return
    from rich.text import Text

    console().print(Text.assemble((printable(bold), "bold"), shown), soft_wrap=True)


def console() -> Console:
    """The console of stdout. Where that is no terminal, `$COLUMNS` decides how wide it is, 140 without it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _WIDTH, highlight=False)


def show(grid: TextTable) -> None:
    """Prints a table on stdout."""
    console().print(grid)


def print_comparisons(comparisons: Sequence[HeldAgainst]) -> None:
    """Whom a method or a strategy was held against, and by how much it differs."""
    if not comparisons:
        print_text("Held against nobody.")
        return
    columns = ("how", "on", "largest difference", "note")
    table = TextTable("held against", columns, prose=("held against", *columns))
    for one in comparisons:
        of = f"{one.input}, {one.entries} numbers in {one.dtype}" if one.entries else ""
        table.add_row(one.against, one.how, of, one.difference, one.note)
    show(table)


def print_matrix(matrix: CrossMatrix, title: str) -> None:
    """A cross matrix as a table on stdout: models down, tasks across, the mean over tasks last."""
    grid = TextTable("model", [*matrix.tasks, "mean"], title=title)
    for model in matrix.models:
        cells = [*(matrix.cells[model, name] for name in matrix.tasks), matrix.means[model]]
        grid.add_row(model, *(f"{cell.mean:.3f}\n{cell.lo:.2f} {cell.hi:.2f}" for cell in cells))
    show(grid)


def print_means(table: OutcomeTable, skills: Sequence[str], generic: str) -> None:
    """Every model's score in each task and, with intervals, the mean of its skills and its generic score."""
    from genepool.measure import macro_interval, mean_interval

    heads = [*skills, "mean of skills", generic]
    grid = TextTable("model", heads, title="test split, means with the half width of their 95% intervals")
    for model in table.models:
        mean = macro_interval([table.scores(model, skill) for skill in skills])
        last = mean_interval(table.scores(model, generic))
        cells = [f"{table.mean(model, skill):.3f}" for skill in skills]
        grid.add_row(model, *cells, *(f"{i.mean:.3f} ±{(i.hi - i.lo) / 2:.3f}" for i in (mean, last)))
    show(grid)
