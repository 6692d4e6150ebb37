"""The page: every section there or absent, nothing from outside, untrusted text inert, numbers those of the data."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from changed_report import changed

from genepool.measure import NOT_MEASURED, Interval
from genepool.report import Report, render_report
from genepool.report.flips import ShownFlip
from genepool.report.recipe_figure import GeneValue, RecipePicture
from genepool.report.scatter_figure import Scatter, ScatterPoint
from genepool.report.search_figure import Evaluation, SearchRun
from genepool.report.sections import Section, all_sections
from genepool.report.sections.changes import Changes, RivalComparison
from genepool.report.sections.collection import Collection
from genepool.report.sections.cost import Costs
from genepool.report.sections.lineage import Lineage
from genepool.report.sections.recipe import Recipes
from genepool.report.sections.scores import ModelRow, ScoredTask, Scores
from genepool.report.sections.search import SearchCurves
from genepool.report.sections.standings import Standings
from genepool.report.sections.tasks import model_profiles
from genepool.report.sections.tradeoffs import SHOWN, TradeOffs

VOID = {"meta", "br", "wbr", "input", "link", "hr", "img"}
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&\x00\x1b[31m\ud800 \u202e"


class Page(HTMLParser):
    """Reads a page into tags and the text of chosen elements, and checks that every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.stack == [], f"left open: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        opened = self.stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if self.stack:
            self.texts.append((self.stack[-1], data))

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("script", "style"))


#: What a section draws, field by field, and the id it has in the page.
SECTIONS = {
    (Scores, "models"): "scores",
    (Changes, "comparisons"): "changes",
    (SearchCurves, "searches"): "search",
    (Recipes, "recipes"): "recipe",
    (Costs, "costs"): "cost",
    (TradeOffs, "scatters"): "tradeoffs",
    (Collection, "searches"): "collection",
}
NOT_NEEDED = [(Standings, "standings"), (SearchCurves, "references"), (Lineage, "facts"), (Scores, "tasks")]


def test_a_full_page_has_every_section(report_data: Report) -> None:
    page = Page(render_report(report_data))
    assert {kind.name for kind, _ in SECTIONS} | {"tasks", "lineage"} <= page.ids()


def test_sections_have_names_and_places_of_their_own() -> None:
    found = all_sections()
    assert len({section.name for section in found}) == len(found) >= 10
    assert [section.order for section in found] == sorted({section.order for section in found})


@pytest.mark.parametrize(("kind", "field"), [*SECTIONS, *NOT_NEEDED])
def test_any_one_section_may_be_absent(report_data: Report, kind: type[Section], field: str) -> None:
    page = Page(render_report(changed(report_data, kind, **{field: ()})))
    if (kind, field) in SECTIONS:
        assert kind.name not in page.ids()
        assert f"#{kind.name}" not in {attributes.get("href") for _, attributes in page.tags}


@pytest.mark.parametrize("name", ["notices", "summary"])
def test_the_words_at_the_top_may_be_absent(report_data: Report, name: str) -> None:
    Page(render_report(dataclasses.replace(report_data, **{name: type(getattr(report_data, name))()})))


def test_lineage_is_absent_when_nothing_is_known_of_it(report_data: Report) -> None:
    page = Page(render_report(changed(report_data, Lineage, models=(), commands=(), facts=())))
    assert "lineage" not in page.ids()


def test_a_title_alone_is_a_page() -> None:
    page = Page(render_report(Report(title="Nothing yet")))
    assert page.ids().isdisjoint({section.name for section in all_sections()})
    assert "Nothing yet" in page.text()


@pytest.mark.parametrize("kind", [kind for kind, _ in SECTIONS])
def test_each_section_stands_alone(report_data: Report, kind: type[Section]) -> None:
    assert kind.name in Page(render_report(Report(title="One section", sections=(report_data[kind],)))).ids()


def test_every_number_of_the_matrix_is_the_data(report_data: Report) -> None:
    html = render_report(report_data)
    table = re.search(r'<table class="matrix".*?</table>', html, re.DOTALL)
    assert table
    expected = []
    for kind in ("base", "parent", "merge", "random", "winner"):
        for model in (m for m in report_data[Scores].models if m.kind == kind):
            for group in report_data[Scores].groups:
                cells = [model.scores[a.name] for a in report_data[Scores].tasks if a.group == group]
                expected += [*cells, model.means[group]]
    cells = re.findall(r'<td class="num[^>]* data-v="([^"]+)" data-lo="([^"]+)" data-hi="([^"]+)">(.*?)</td>', table[0])
    assert len(cells) == len(expected) == len(report_data[Scores].models) * (len(report_data[Scores].tasks) + 2)
    for (value, low, high, shown), estimate in zip(cells, expected, strict=True):
        assert float(value) == pytest.approx(estimate.mean, rel=1e-5)
        assert (float(low), float(high)) == pytest.approx((estimate.lo, estimate.hi), rel=1e-5, abs=1e-9)
        text = re.sub("<[^>]+>", " ", shown).split()
        assert text == [
            f"{100 * estimate.mean:.1f}",
            f"{100 * estimate.lo:.1f}–{100 * estimate.hi:.1f}",
        ]


def test_the_best_of_every_column_is_marked_and_only_it(report_data: Report) -> None:
    marked = re.findall(r"<u>([\d.]+)</u>", render_report(report_data))
    best = []
    for task in report_data[Scores].tasks:
        values = [model.scores[task.name].mean for model in report_data[Scores].models]
        best += [f"{100 * max(values):.1f}"] * values.count(max(values))
    for group in report_data[Scores].groups:
        values = [model.means[group].mean for model in report_data[Scores].models]
        best += [f"{100 * max(values):.1f}"] * values.count(max(values))
    assert sorted(marked) == sorted(best)


def test_nothing_is_marked_where_all_are_equal() -> None:
    models = tuple(ModelRow(name, "merge", {"sort": Interval(0.0)}) for name in ("a", "b"))
    assert "<u>" not in render_report(Report(title="t", sections=(Scores((ScoredTask("sort"),), models),)))


def test_missing_and_nan_scores_are_a_dash(report_data: Report) -> None:
    tasks = (ScoredTask("sort"), ScoredTask("upper"), ScoredTask("caesar"))
    scores = {"sort": NOT_MEASURED, "upper": Interval(float("nan"), float("nan"), 0.5)}
    html = render_report(Report(title="t", sections=(Scores(tasks, (ModelRow("m", "merge", scores),)),)))
    table = re.search(r'<table class="matrix".*?</table>', html, re.DOTALL)
    assert table
    assert re.findall(r"<td[^>]*>(.*?)</td>", table[0]) == ["–", "–", "–"]
    assert "nan" not in table[0].lower()


def test_a_score_of_one_without_an_interval_shows_no_interval() -> None:
    models = (ModelRow("m", "merge", {"sort": Interval(1.0)}),)
    html = render_report(Report(title="t", sections=(Scores((ScoredTask("sort"),), models),)))
    assert '<td class="num s40" data-v="1">100.0</td>' in html


def test_the_overview_of_differences_is_the_comparisons(report_data: Report) -> None:
    html = render_report(report_data)
    table = re.search(r'<table class="genes values overview.*?</table>', html, re.DOTALL)
    assert table
    cells = re.findall(r'<td class="value (\w+)" data-v="([^"]+)" data-lo="([^"]+)" data-hi="([^"]+)">', table[0])
    expected = [change.delta for comparison in report_data[Changes].comparisons for change in comparison.changes]
    assert len(cells) == len(expected)
    for (look, *numbers), delta in zip(cells, expected, strict=True):
        assert [float(number) for number in numbers] == pytest.approx([delta.mean, delta.lo, delta.hi], rel=1e-5)
        assert (look == "level") == (delta.lo <= 0 <= delta.hi)
    alone = changed(report_data, Changes, comparisons=report_data[Changes].comparisons[:1])
    assert 'class="genes values overview' not in render_report(alone)


def test_the_parallel_view_has_every_model_and_shows_the_subject_beside_its_rivals(report_data: Report) -> None:
    profiles = model_profiles(report_data)
    assert profiles[0].name == report_data.subject
    assert {profile.name for profile in profiles} == {model.name for model in report_data[Scores].models}
    rivals = {rival.name for standing in report_data[Standings].standings for rival in standing.rivals}
    assert {profile.name for profile in profiles if profile.shown} == {report_data.subject, "base", *rivals}
    html = render_report(report_data)
    for chart in re.findall(r'<div class="plot \w+">(<svg.*?</svg>)</div>', html, re.DOTALL):
        root = ElementTree.fromstring(chart)
        drawn = {
            node.attrib["data-series"]: "hidden" in node.attrib
            for node in root.iter("g")
            if "data-series" in node.attrib
        }
        assert drawn == {str(i): not profile.shown for i, profile in enumerate(profiles)}
    one = changed(report_data, Scores, tasks=report_data[Scores].tasks[:1])
    assert model_profiles(one) == []


def test_finalists_say_who_won_and_what_was_never_searched(report_data: Report) -> None:
    html = render_report(report_data)
    table = re.search(r'<table class="finalists[^>]*>.*?</table>', html, re.DOTALL)
    assert table
    assert table[0].count("<b>won</b>") == len(report_data[SearchCurves].searches)
    assert table[0].count('data-v="">–</td>') == len(report_data[SearchCurves].searches)
    without = [dataclasses.replace(run, finalists=()) for run in report_data[SearchCurves].searches]
    assert "judged again" not in render_report(changed(report_data, SearchCurves, searches=tuple(without)))


SERIES = ((HOSTILE, None), ("", "base"))


def hostile_report() -> Report:
    estimate = Interval(0.5, 0.4, 0.6)
    gene = GeneValue(HOSTILE, HOSTILE, None, HOSTILE, 1, 0, 2)
    flip = ShownFlip(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, None, True)
    return Report(
        title=HOSTILE,
        headline=HOSTILE,
        summary=HOSTILE,
        notices=(HOSTILE,),
        subject=HOSTILE,
        sections=(
            Scores(
                (ScoredTask(HOSTILE, HOSTILE, 10),), (ModelRow(HOSTILE, "winner", {HOSTILE: estimate}, note=HOSTILE),)
            ),
            SearchCurves((SearchRun(HOSTILE, (Evaluation(0.5), Evaluation(None), Evaluation(0.6, 1))),)),
            TradeOffs(
                (
                    Scatter(
                        HOSTILE,
                        (HOSTILE, HOSTILE),
                        tuple(ScatterPoint(HOSTILE, search, kind, (estimate, estimate)) for search, kind in SERIES),
                    ),
                )
            ),
            Recipes((RecipePicture(HOSTILE, HOSTILE, (gene,), HOSTILE),)),
            Changes((RivalComparison(HOSTILE, HOSTILE, "parent", (), (flip,)),)),
            Lineage(commands=(HOSTILE,), facts=((HOSTILE, HOSTILE),)),
        ),
    )


def test_hostile_text_stays_text() -> None:
    html = render_report(hostile_report())
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "</script><script>alert('x')</script>" in page.text(), "the reader sees the text as it was"
    html.encode("utf-8")
    assert "\x00" not in html
    assert "\x1b" not in html


def test_only_the_pages_own_script_may_run(report_data: Report) -> None:
    page = Page(render_report(report_data))
    script = next(text for tag, text in page.texts if tag == "script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("make", [hostile_report, None])
def test_nothing_comes_from_outside(report_data: Report, make: object) -> None:
    html = render_report(make() if callable(make) else report_data)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert "srcset" not in attributes
        for name in ("href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith("#")
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "@import" not in style
    assert "url(" not in style


def pictures(html: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", html, re.DOTALL)


@pytest.mark.parametrize("make", [hostile_report, None])
def test_pictures_are_well_formed_and_inside_their_frame(report_data: Report, make: object) -> None:
    found = pictures(render_report(make() if callable(make) else report_data))
    assert len(found) >= 3
    for picture in found:
        root = ElementTree.fromstring(picture)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for node in root.iter():
            for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height)):
                if name in node.attrib:
                    assert -1 <= float(node.attrib[name]) <= limit + 1, ElementTree.tostring(node)
            assert "nan" not in node.attrib.get("d", "")


def test_ids_are_unique_and_links_lead_somewhere(report_data: Report) -> None:
    page = Page(render_report(report_data))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_a_usual_page_stays_under_one_megabyte(report_data: Report) -> None:
    assert len(render_report(report_data).encode()) < 1_000_000


def test_two_hundred_models_on_twenty_tasks_stay_under_three_megabytes(report_data: Report) -> None:
    tasks = tuple(ScoredTask(f"task number {i}", "skills" if i < 15 else "generic", 1024) for i in range(20))
    cell = Interval(0.123456, 0.1134567, 0.1345678)
    models = tuple(
        ModelRow(f"merge-of-several-{i}", "merge", {a.name: cell for a in tasks}, {"skills": cell, "generic": cell})
        for i in range(200)
    )
    search = SearchRun("long", tuple(Evaluation(0.5 + (i % 97) / 300, i // 20) for i in range(20_000)))
    points = tuple(ScatterPoint(f"candidate {i} of generation 9", "long", None, (cell,) * 22) for i in range(SHOWN))
    scatter = Scatter("validation", tuple(f"objective {i}" for i in range(22)), points, candidates=20_000)
    large = changed(report_data, Scores, tasks=tasks, models=models)
    html = render_report(changed(changed(large, SearchCurves, searches=(search,)), TradeOffs, scatters=(scatter,)))
    assert len(html.encode()) < 3_000_000
    matrix = re.search(r'<table class="matrix".*?</table>', html, re.DOTALL)
    assert matrix
    assert matrix[0].count('data-v="0.123456"') == 200 * 22


def test_the_same_data_makes_the_same_page(report_data: Report) -> None:
    assert render_report(report_data) == render_report(report_data)
