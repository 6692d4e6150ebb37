"""A profile: counted by hand, from a table of outcomes that no model gave."""

from __future__ import annotations

import numpy as np
import pytest
from made_outcomes import made_table

from genepool import measure
from genepool.errors import InputError
from genepool.report.profile_page import profile_markdown, render_profile, summary

HOSTILE = '<script>alert("x")</script> | `a` *b*'


def test_parts_are_those_of_the_table() -> None:
    table = made_table()
    found = measure.profile(table, "m")
    assert [(one.name, one.n) for one in found.tasks] == [("easy", 40), ("hard", 40)]
    assert [one.score.mean for one in found.tasks] == [table.mean("m", "easy"), table.mean("m", "hard")]
    assert found.mean.mean == pytest.approx((table.mean("m", "easy") + table.mean("m", "hard")) / 2)
    (even,) = found.tags
    assert even.n == 40
    every_second = np.concatenate([table.scores("m", task)[::2] for task in table.tasks])
    assert even.score.mean == pytest.approx(every_second.mean())
    assert [one.task for one in found.trust] == [None, "easy", "hard"]
    assert found.trust[0].abstention.n == 80
    assert found.notices == []


def test_trust_is_calibration_of_the_same_answers() -> None:
    table = made_table()
    trust = measure.profile(table, "m").trust[2]
    sure = [outcome.detail["confidence"] for outcome in table.outcomes("m", "hard")]
    assert trust.calibration == measure.calibration(sure, table.scores("m", "hard"))
    assert trust.calibration is not None
    assert trust.calibration.confidence > trust.calibration.right.mean
    assert trust.guarantee is None


def test_without_confidence_and_with_few_examples() -> None:
    found = measure.profile(made_table(sure=False, count=5), "m")
    assert found.trust == ()
    assert "Fewer than 30 examples of easy and hard" in found.notices[0]
    assert "None of 10 answers have a confidence" in found.notices[1]
    assert "Too few of its answers" in render_profile([found], {})


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="no model 'other'"):
        measure.profile(made_table(), "other")
    with pytest.raises(InputError, match="got 2"):
        measure.profile(made_table(), "m", risk=2)


def test_page_and_markdown_show_the_numbers() -> None:
    one, other = (measure.profile(made_table(name), name) for name in ("m", HOSTILE))
    page = render_profile([one, other], {"ledger": HOSTILE})
    assert "<script>alert" not in page
    assert page.count("<svg") >= 14
    for part in one.tasks:
        assert f'data-v="{part.name}"' in page
        assert f'data-v="{part.score.mean:.6g}"' in page
    text = profile_markdown([one, other], {"split": "test"})
    assert "| easy | 40 |" in text
    assert "<script>" not in text
    assert summary(one) in text.replace("\\", "")
    assert "overconfident" in summary(one) or "calibrated" in summary(one)
