"""Tables on a terminal: whatever its width, every cell stands there whole, and nothing a name says acts on it."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from genepool.cli.tables import TextTable


def _printed(grid: TextTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(grid)
    return console.file.getvalue().splitlines()


_numbers = st.lists(st.lists(st.integers(-(10**9), 10**9), min_size=12, max_size=12), min_size=1, max_size=4)


@given(_numbers, st.integers(40, 200), st.integers(1, 12))
def test_every_number_stands_whole_at_any_width(rows: list[list[int]], width: int, count: int) -> None:
    grid = TextTable("model", [f"task {i}" for i in range(count)])
    for number, row in enumerate(rows):
        grid.add_row(f"m{number}", *(f"{value:,}" for value in row[:count]))
    lines = _printed(grid, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for row in rows:
        for value in row[:count]:
            assert f"{value:,}" in words


def test_a_wide_table_is_printed_in_parts_that_repeat_the_names() -> None:
    grid = TextTable("task", ["before", "after", "difference", "95%"], title="base to tuned")
    grid.add_row("reverse", "0.050", "0.950", "+0.900", "+0.850 +0.950")
    grid.add_section()
    grid.add_row("mean", "0.250")
    wide, narrow = _printed(grid, 80), _printed(grid, 40)
    assert sum("reverse" in line for line in wide) == 1
    assert sum("reverse" in line for line in narrow) == 2
    assert sum("base to tuned" in line for line in narrow) == 1
    assert "+0.850 +0.950" in "\n".join(narrow)


def test_sentences_are_wrapped_at_words() -> None:
    grid = TextTable("method", ["when"], prose=["when"])
    grid.add_row("ties", "Several skills whose changes conflict in sign")
    text = " ".join(" ".join(_printed(grid, 40)).split())
    assert "Several skills whose" in text
    assert max(map(len, _printed(grid, 40))) <= 40


def test_a_name_is_text() -> None:
    grid = TextTable("task", ["n"])
    grid.add_row("[red]a\x1b[31m", "1")
    text = "\n".join(_printed(grid, 80))
    assert "[red]a\\x1b[31m" in text
    assert "\x1b" not in text
