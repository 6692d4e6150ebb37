"""Metrics: one file each, found by being there, and honest about what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from genepool.errors import InputError
from genepool.tasks import metrics
from genepool.tasks.example import Example
from genepool.tasks.metrics import Metric, all_metrics, find_metric, metric, register

ONE = Example("1", "p", ("a",), ("a", "b"))
NEW = '''
from genepool.tasks.metrics import metric


@metric("3", within=True)
def begins(output, example, strip):
    """1 when the output begins with an answer."""
    return float(output.startswith(example.answers))
'''


def test_every_metric_is_a_file_of_its_name() -> None:
    files = {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - {"__init__"}
    # Other tests of this process may have brought metrics of their own.
    known = [name for name in all_metrics() if type(find_metric(name)).__module__.startswith(metrics.__name__)]
    assert known == sorted(files)


@pytest.mark.parametrize("name", all_metrics())
def test_a_metric_scores_from_0_to_1_or_asks_for_likelihoods(name: str) -> None:
    found = find_metric(name)
    assert found.name == name
    if found.from_prompt or found.needs == "episode":
        # What is right stands in the prompt, or is done in an environment, and this one has neither.
        assert found.wrong(ONE) is not None
        return
    assert found.wrong(ONE) is None
    if found.needs != "text":
        assert found.judge is None
        return
    assert found.judge is not None
    scores = [found.judge(output, ONE, strip) for output in ("a", "b", "", " a ") for strip in (True, False)]
    assert set(scores) <= {0.0, 1.0}
    assert scores[0] == 1.0
    # Where the score is equality, only an answer scores, and reading the answer can tell.
    if found.equality:
        assert scores[2] == found.judge("aa", ONE, True) == 0.0


def test_one_more_file_is_one_more_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "begins.py").write_text(NEW)
    monkeypatch.setattr(metrics, "_registry", dict(all_metrics()))
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    metrics._load_all.cache_clear()
    found = find_metric("begins")
    assert (found.version, found.within, found.judge("ab", ONE, True)) == ("3", True, 1.0)
    monkeypatch.undo()
    metrics._load_all.cache_clear()
    with pytest.raises(InputError, match="unknown metric 'begins'"):
        find_metric("begins")


def test_a_metric_that_contradicts_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_registry", dict(all_metrics()))
    for wrong in (Metric("mine", "1"), Metric("mine", "1", needs="choices", judge=lambda output, example, strip: 1.0)):
        with pytest.raises(ValueError, match="the metric mine needs"):
            register(wrong)
    with pytest.raises(InputError, match="already a metric 'contains'"):

        @metric("1")
        def contains(output: str, example: Example, strip: bool) -> float:
            return 1.0


@pytest.mark.parametrize(
    ("name", "example", "said"),
    [
        ("contains", Example("1", "p", ("a", "")), "an empty answer"),
        ("regex", Example("1", "p", ("",)), "an empty answer"),
        ("regex", Example("1", "p", ("(",)), "not a regular expression"),
        ("regex", Example("1", "p", ("a{99999999999}",)), "not a regular expression"),
        ("multiple_choice", Example("1", "p", ("a",), ("a", "a")), "`choices`, two at least"),
    ],
)
def test_an_example_that_cannot_be_judged_so_is_told(name: str, example: Example, said: str) -> None:
    wrong = find_metric(name).wrong(example)
    assert wrong is not None
    assert said in wrong[0]
