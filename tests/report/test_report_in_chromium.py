"""The page in a real browser: it opens from disk without a complaint, fits a phone, and its script does what it should.

Talks to a headless Chromium over the pipe of its debugging protocol, which needs no port and no further package.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_comparison import made_comparison
from made_inspection import made_up_inspection
from made_outcomes import made_table

from genepool.measure import profile
from genepool.report import Report, render_inspection, render_report
from genepool.report.comparison_page import write_comparison
from genepool.report.profile_page import write_profile
from genepool.report.scatter_figure import fronts
from genepool.report.sections.changes import Changes
from genepool.report.sections.collection import Collection
from genepool.report.sections.scores import Scores
from genepool.report.sections.search import SearchCurves
from genepool.report.sections.tradeoffs import TradeOffs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "about:blank"),
)


KINDS = ["page", "inspection_page", "comparison_page", "profile_page"]


class Browser:
    """One tab of a headless Chromium; collects what the page complains about."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The protocol's pipe is fixed to the descriptors 3 and 4.
        plumbing = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", plumbing, "bash", CHROMIUM, f"--user-data-dir={profile}", *FLAGS],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._count, self._session = b"", 0, ""
        self.complaints: list[str] = []
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(self._out, json.dumps({**message, **self._scope()}).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, page: Path, query: str = "", *, width: int = 1280) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=f"{page.as_uri()}{query}")
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page, or what its promise resolves to."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def close(self) -> None:
        os.close(self._out)
        self._process.wait(timeout=30)
        os.close(self._in)

    def _scope(self) -> dict[str, str]:
        return {"sessionId": self._session} if self._session else {}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser went away"
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(line.decode())
        return message


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(report_data: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(report_data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def inspection_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspection") / "inspect.html"
    path.write_text(render_inspection(made_up_inspection(8, hostile=True)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compared = [made_comparison(new=f"models/number {i}", tasks=12) for i in range(3)]
    return write_comparison(compared, {"split": "test"}, tmp_path_factory.mktemp("compare") / "compare.html")


@pytest.fixture(scope="module")
def profile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    profiles = [profile(made_table(name), name) for name in ("models/a", "models/b with a rather long name")]
    return write_profile(profiles, {"split": "test"}, tmp_path_factory.mktemp("profiles") / "profile.html")


def first_column(browser: Browser) -> list[str]:
    return list(
        browser.run("""[...document.querySelectorAll(".matrix tbody:not([hidden]) tr:not(.kindname)")]
            .map((row) => row.cells[0].dataset.v)""")
    )


def column(browser: Browser, index: int) -> list[float]:
    return list(
        browser.run(f"""[...document.querySelectorAll(".matrix tbody:not([hidden]) tr:not(.kindname)")]
            .map((row) => Number(row.cells[{index}].dataset.v))""")
    )


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_without_a_complaint_and_fits(
    browser: Browser, kind: str, width: int, theme: str, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(kind)
    browser.complaints.clear()
    browser.open(page, f"?theme={theme}", width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(251, 250, 247)" if theme == "light" else "rgb(20, 23, 27)")
    browser.run("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []


def test_column_headings_sort_inside_groups_and_across(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = first_column(browser)
    browser.run("document.querySelectorAll('.matrix .sort')[2].click()")
    merges = [name for name in first_column(browser) if name in before[5:9]]
    assert merges == ["task_arithmetic 0.5", "ties", "task_arithmetic 1.0", "average"]
    assert first_column(browser)[0] == "base", "groups keep their order"
    browser.run("document.getElementById('across').click()")
    assert column(browser, 2) == sorted(column(browser, 2), reverse=True)
    assert browser.run("document.querySelectorAll('.matrix [aria-sort=descending]').length") == 1
    browser.run("document.querySelectorAll('.matrix .sort')[2].click()")
    assert column(browser, 2) == sorted(column(browser, 2))
    browser.run("document.getElementById('across').click()")
    assert sorted(first_column(browser)) == sorted(before)
    assert first_column(browser)[0] == "base"


def test_tabs_work_by_keyboard(browser: Browser, page: Path, report_data: Report) -> None:
    browser.open(page)
    browser.run("document.querySelector('#changes [role=tab]').focus()")
    browser.press("ArrowRight")
    visible = "[...document.querySelectorAll('#changes .panel')].filter((p) => !p.hidden).map((p) => p.dataset.tab)"
    assert browser.run(visible) == [report_data[Changes].comparisons[1].rival]
    browser.press("End")
    assert browser.run(visible) == [report_data[Changes].comparisons[-1].rival]
    assert browser.run("document.activeElement.getAttribute('aria-selected')") == "true"


def test_arrow_keys_walk_through_the_search(browser: Browser, page: Path, report_data: Report) -> None:
    browser.open(page)
    browser.run("document.querySelector('.search .plot.wide').focus()")
    browser.press("ArrowRight")
    assert "evaluation 1, generation 0" in browser.run("document.querySelector('.search .readout').textContent")
    browser.press("End")
    told = browser.run("document.querySelector('.search .readout').textContent")
    assert told.startswith(report_data[SearchCurves].searches[-1].name)
    assert "evaluation 200, generation 19" in told
    assert browser.run("document.getElementById('tip').hidden") is False


CHOOSE = """((choices) => {
    const figure = document.querySelector('.tradeoff');
    for (const [name, value] of Object.entries(choices)) {
        const select = figure.querySelector('.' + name);
        select.value = value;
        select.dispatchEvent(new Event('change'));
    }
    return figure.querySelector('.plot.wide svg title').textContent;
})"""


def test_the_front_of_any_two_objectives_is_the_one_measured(browser: Browser, page: Path, report_data: Report) -> None:
    browser.complaints.clear()
    browser.open(page)
    for place, scatter in enumerate(report_data[TradeOffs].scatters):
        names = scatter.objectives
        for up, across, expected in fronts(scatter):
            chosen = {"examples": place, "across": names.index(across), "up": names.index(up)}
            told = browser.run(f"{CHOOSE}({json.dumps(chosen)})")
            assert told == (
                f"{up} against {across} on {scatter.split} examples: {len(scatter.points)} points, "
                f"{len(expected)} on the front."
            )
            steps = browser.run("document.querySelector('.plot.wide .front').getAttribute('d')")
            assert steps.count("H") == len(expected)
    same = browser.run(f"{CHOOSE}({{across: 1, up: 1}})")
    assert not same.startswith("worst task against worst task"), "two axes never show the same"
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 375])
def test_points_and_names_of_trade_offs_stay_in_their_frame(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    for examples in (0, 1):
        browser.run(f"{CHOOSE}({{examples: {examples}}})")
        outside = browser.run("""(() => {
            const chart = [...document.querySelectorAll('.tradeoff svg.chart')].find((one) => one.clientWidth);
            const frame = chart.getBoundingClientRect();
            return [...chart.querySelectorAll('path, text')].filter((node) => {
                const box = node.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
            }).map((node) => node.outerHTML);
        })()""")
        assert outside == []


def test_trade_offs_are_walked_hidden_and_saved(browser: Browser, page: Path, report_data: Report) -> None:
    browser.open(page)
    validation, test = report_data[TradeOffs].scatters
    browser.run("document.querySelector('.tradeoff .plot.wide').focus()")
    browser.press("End")
    best = max(validation.points, key=lambda point: point.scores[0].mean)
    told = browser.run("document.querySelector('.tradeoff .readout').textContent")
    assert told.startswith(f"{best.search}: {best.name} · fitness {100 * best.scores[0].mean:.1f} (")
    assert "on the front" in told
    lineage = browser.run("document.querySelector('.plot.wide .descent.hot').getAttribute('d')")
    assert lineage.count("L") == int(best.name.split()[-1]), "one line for every generation before it"
    before = browser.run("document.querySelectorAll('.tradeoff .plot.wide .dots').length")
    browser.run("document.querySelectorAll('.tradeoff .toggle')[1].click()")
    assert browser.run("document.querySelectorAll('.tradeoff .toggle')[1].ariaPressed") == "false"
    assert browser.run("document.querySelectorAll('.tradeoff .plot.wide .dots').length") == before - 1
    head, *rows = saved(browser)["trade-offs.csv"]
    assert head[:6] == ["examples", "series", "name", "fitness", "fitness low", "fitness high"]
    assert len(rows) == len(validation.points) + len(test.points)
    winner = next(row for row in rows if row[:2] == ["test", "CMA-ES"])
    assert winner[-2:] == ["yes", "base; reverse; sort; upper; caesar"]
    assert float(winner[3]) == pytest.approx(test.points[-1].scores[0].mean, abs=1e-4)


CHOOSE_CELLS = """((choices) => {
    const figure = document.querySelector('figure[data-atlas]');
    for (const [name, value] of Object.entries(choices)) {
        const select = figure.querySelector('select.' + name);
        select.value = value;
        select.dispatchEvent(new Event('change'));
    }
    return [...figure.querySelectorAll('.plot.wide rect.cell')].map((cell) => [
        cell.getAttribute('x'), cell.getAttribute('y'), cell.parentElement.querySelector('text')?.textContent]);
})"""


def test_the_cells_of_a_map_tell_the_best_of_those_in_them(browser: Browser, page: Path, report_data: Report) -> None:
    browser.complaints.clear()
    browser.open(page)
    archives = report_data[Collection].searches[0]
    for choices in ({"which": 0}, {"which": 1}, {"which": 0, "across": 2, "up": 0, "colour": 1}):
        drawn = browser.run(f"{CHOOSE_CELLS}({json.dumps(choices)})")
        chosen = archives.maps[choices["which"]]
        across, up = choices.get("across", chosen.across), choices.get("up", chosen.up)
        cells: dict[tuple[int, int], float] = {}
        for member in archives.members:
            if member.atlas == choices["which"]:
                cell = int(archives.bins * member.scores[across]), int(archives.bins * member.scores[up])
                cells[cell] = max(cells.get(cell, 0.0), member.scores[choices.get("colour", chosen.quality)])
        assert sorted(text for *_, text in drawn) == sorted(f"{100 * worth:.1f}" for worth in cells.values())
        assert len({(x, y) for x, y, _ in drawn}) == len(cells)
    assert browser.run(f"{CHOOSE_CELLS}({{colour: 3}})") == [], "nobody has this score"
    browser.run(f"{CHOOSE_CELLS}({{which: 1}})")
    browser.run("document.querySelector('figure[data-atlas] .plot.wide').focus()")
    browser.press("Home")
    told = browser.run("document.querySelector('figure[data-atlas] .readout').textContent")
    name = told.removeprefix("candidate ").split(" · ")[0]
    scores = next(member.scores for member in archives.members if member.name == name)
    assert f"sort {100 * scores[0]:.1f} · reverse {100 * scores[1]:.1f} · upper {100 * scores[2]:.1f}" in told
    command = browser.run("document.querySelector('figure[data-atlas] code').textContent")
    assert command == f"genepool collection run --write {name} --out model"
    head, *rows = saved(browser)["collection of CycleQD.csv"]
    assert head == ["candidate", "archive", *archives.scores]
    assert [row[:2] for row in rows] == [[m.name, archives.maps[m.atlas].name] for m in archives.members]
    assert browser.complaints == []


@pytest.mark.parametrize(
    ("kind", "figure"),
    [
        ("page", ".profiles"),
        ("page", ".search"),
        ("inspection_page", ".layers"),
        ("comparison_page", "#profile figure"),
        ("profile_page", "#beside figure"),
    ],
)
def test_names_of_a_legend_hide_and_show(
    browser: Browser, kind: str, figure: str, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(kind))
    state = f"""(() => {{
        const figure = document.querySelector('{figure}');
        return [...figure.querySelectorAll('.toggle')].map((button, i) => {{
            const series = [...figure.querySelectorAll(`.plot.wide [data-series="${{i}}"]`)];
            return [button.ariaPressed === 'true', ...series.map((node) => getComputedStyle(node).display !== 'none')];
        }});
    }})()"""
    before = browser.run(state)
    assert len(before) > 1
    assert all(len(row) > 1 and len(set(row)) == 1 for row in before), "what the legend says is what is drawn"
    browser.run(f"document.querySelector('{figure} .toggle').click()")
    after = browser.run(state)
    assert [row[0] for row in after] == [not before[0][0], *(row[0] for row in before[1:])]
    assert all(len(set(row)) == 1 for row in after)


def test_flipped_examples_can_be_filtered(browser: Browser, page: Path) -> None:
    browser.open(page)
    choose = """(() => {
        const box = document.querySelector('.flips');
        box.open = true;
        for (const [name, value] of Object.entries({'by-task': 'sort', 'by-direction': 'lost'})) {
            const select = box.querySelector('.' + name);
            select.value = value;
            select.dispatchEvent(new Event('change'));
        }
        const shown = [...box.querySelectorAll('li')].filter((item) => !item.hidden);
        return shown.map((item) => Object.values(item.dataset));
    })()"""
    assert browser.run(choose) == [["sort", "lost"]]


def test_tables_are_saved_with_their_intervals(browser: Browser, page: Path, report_data: Report) -> None:
    browser.open(page)
    text = browser.run("""new Promise((resolve) => {
        URL.createObjectURL = (blob) => { blob.text().then(resolve); return '#'; };
        document.querySelector('#scores .csv').click();
    })""")
    lines = text.splitlines()
    assert lines[0].startswith("model,reverse,reverse low,reverse high,sort")
    assert len(lines) == 1 + len(report_data[Scores].models)
    base = report_data[Scores].models[0].scores["reverse"]
    assert lines[1].split(",")[:2] == ["base", f"{base.mean:.6g}"]


SAVED = """(async () => {
    const names = [], texts = [];
    URL.createObjectURL = (blob) => { texts.push(blob.text()); return '#'; };
    HTMLAnchorElement.prototype.click = function () { names.push(this.download); };
    document.querySelectorAll('.csv').forEach((button) => button.click());
    return (await Promise.all(texts)).map((text, i) => [names[i], text]);
})()"""


def saved(browser: Browser) -> dict[str, list[list[str]]]:
    """Every CSV that the open page offers, read back: its rows by file name."""
    files = [(name, list(csv.reader(io.StringIO(text)))) for name, text in browser.run(SAVED)]
    assert len({name for name, _ in files}) == len(files), "two files of one name"
    return dict(files)


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_and_table_is_saved_whole(browser: Browser, kind: str, request: pytest.FixtureRequest) -> None:
    browser.open(request.getfixturevalue(kind))
    files = saved(browser)
    for name, rows in files.items():
        assert len(rows) > 1, name
        assert {len(row) for row in rows} == {len(rows[0])}, name
    # A chart without a button beneath it would be one whose numbers nobody can have.
    assert (
        browser.run("""[...document.querySelectorAll('svg.chart')]
        .filter((chart) => !chart.closest('figure').querySelector('.csv')).length""")
        == 0
    )
    assert (
        browser.run("""[...document.querySelectorAll('table')]
        .filter((table) => !table.matches('.matrix, .sorts')).length""")
        == 0
    )


def test_the_search_is_saved_candidate_by_candidate(browser: Browser, page: Path, report_data: Report) -> None:
    browser.open(page)
    head, *rows = saved(browser)["search.csv"]
    assert head == ["search", "evaluation", "generation", "fitness", "best so far"]
    expected = []
    for run in report_data[SearchCurves].searches:
        best = None
        for i, one in enumerate(run.evaluations, start=1):
            best = max((value for value in (best, one.fitness) if value is not None), default=None)
            expected.append((run.name, i, one.generation, one.fitness, best))
    assert len(rows) == len(expected)
    for row, (name, i, generation, fitness, best) in zip(rows, expected, strict=True):
        assert row[:3] == [name, str(i), str(generation)]
        assert (row[3] == "") == (fitness is None)
        assert fitness is None or float(row[3]) == pytest.approx(fitness, abs=1e-6)
        assert float(row[4]) == pytest.approx(best, abs=1e-6)


def test_the_tables_of_an_inspection_are_saved_with_full_names(browser: Browser, inspection_page: Path) -> None:
    browser.open(inspection_page)
    text = browser.run("""new Promise((resolve) => {
        URL.createObjectURL = (blob) => { blob.text().then(resolve); return '#'; };
        document.querySelector('#agreement .csv').click();
    })""")
    lines = text.splitlines()
    assert len(lines) == 1 + 8
    assert lines[1].startswith('"models/""tuned"" <script>0",,')


def test_a_comparison_is_sorted_and_saved(browser: Browser, comparison_page: Path) -> None:
    browser.open(comparison_page)
    rows = "[...document.querySelectorAll('.panel:not([hidden]) .compared tbody tr')]"
    order, values = f"{rows}.map((row) => row.cells[0].dataset.v)", f"{rows}.map((row) => +row.cells[5].dataset.v)"
    before = browser.run(order)
    browser.run("document.querySelectorAll('.panel:not([hidden]) .compared .sort')[4].click()")
    assert browser.run(values) == sorted(browser.run(values), reverse=True)
    assert browser.run(order)[0] == "task1"
    assert sorted(browser.run(order)) == sorted(before)
    text = browser.run("""new Promise((resolve) => {
        URL.createObjectURL = (blob) => { blob.text().then(resolve); return '#'; };
        document.querySelectorAll('.panel:not([hidden]) .csv')[1].click();
    })""")
    lines = text.splitlines()
    assert lines[0].startswith("task,n,old,old low,old high,new,new low,new high,difference,difference low")
    assert len(lines) == 1 + 12
    assert lines[1].startswith("task1,200,")


@pytest.mark.parametrize("kind", KINDS)
def test_any_table_can_be_sorted_by_any_column(browser: Browser, kind: str, request: pytest.FixtureRequest) -> None:
    browser.open(request.getfixturevalue(kind))
    unsorted = browser.run("""[...document.querySelectorAll('table.sorts')].flatMap((table) => {
        const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent.trim();
        return [...table.querySelectorAll('thead tr:last-child th')].map((head, i) => [head.querySelector('.sort'), i])
            .filter(([button]) => button).flatMap(([button, i]) => ['first', 'second'].map(() => {
                button.click();
                const sign = button.closest('th').getAttribute('aria-sort') === 'ascending' ? 1 : -1;
                return [...table.tBodies].every((body) => {
                    const known = [...body.rows].map((row) => value(row, i)).filter((v) => v !== '' && v !== '–');
                    return known.slice(1).every((v, k) => {
                        const numbers = [known[k], v].map(Number);
                        return numbers.some(Number.isNaN) || sign * (numbers[1] - numbers[0]) >= 0;
                    });
                }) ? null : `${table.dataset.csv}: ${button.textContent}`;
            }));
    }).filter(Boolean)""")
    assert unsorted == []


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_acts_can_be_reached_by_keyboard(
    browser: Browser, kind: str, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(kind))
    unreachable = browser.run("""[...document.querySelectorAll(
            'button, a, select, input, summary, .plot:has([data-points]), .scroll')]
        .filter((node) => node.tabIndex < 0 && node.getAttribute('role') !== 'tab').map((node) => node.outerHTML)""")
    assert unreachable == []
