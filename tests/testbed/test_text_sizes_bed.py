"""The testbed of two sizes: a large and a small base of one vocabulary, with specialists of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genepool.testbed.beds import text as text_bed
from genepool.testbed.beds import text_sizes
from genepool.testbed.folder import hash_files
from genepool.testbed.schedule import Lengths, Phase, Schedule, schedule_for, small_schedule_for
from genepool.weights import open_weights

MINUTE = Schedule(
    hidden=16,
    layers=1,
    heads=2,
    feed_forward=24,
    lengths=Lengths(4, 5),
    base=Phase(2, 8, 1e-3),
    full=Phase(1, 8, 1e-3),
    lora=Phase(1, 8, 1e-3),
)


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every build one that is too small to learn anything."""
    monkeypatch.setattr(text_bed, "schedule_for", lambda regime, *, tiny, skills: MINUTE)
    small = replace(MINUTE, hidden=8)
    monkeypatch.setattr(text_sizes, "small_schedule_for", lambda regime, *, tiny, skills: small)


def test_both_sizes_have_one_vocabulary_and_the_same_specialists(
    minute: None, cli: Callable[..., Any], tmp_path: Path
) -> None:
    call = ["testbed", "build", tmp_path / "bed", "--bed", "text_sizes", "--skills", "reverse", "--json"]
    answer = cli(*call)
    assert answer.code == 0, answer.err
    assert set(json.loads(answer.out)["manifest"]["models"]) == {
        "base",
        "full/reverse",
        "small/base",
        "small/full/reverse",
    }
    for name in ("base", "full/reverse"):
        large, small = open_weights(tmp_path / "bed" / name), open_weights(tmp_path / "bed" / "small" / name)
        (words, wide), (own, narrow) = (one.info("model.embed_tokens.weight").shape for one in (large, small))
        assert (words, wide, narrow) == (own, 16, 8)
        files = ["tokenizer.json", "tokenizer_config.json"]
        assert [hash_files(large.folder or tmp_path)[one] for one in files] == [
            hash_files(small.folder or tmp_path)[one] for one in files
        ]
    assert json.loads(cli(*call).out)["cached"]


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("regime", ["elicit", "acquire"])
def test_the_small_one_is_smaller_and_learns_the_same(regime: str, tiny: bool) -> None:
    large, small = (which(regime, tiny=tiny, skills=4) for which in (schedule_for, small_schedule_for))
    assert small.hidden < large.hidden
    assert (small.lengths, small.context) == (large.lengths, large.context)
    assert (small.base.steps, small.full.steps) == (large.base.steps, large.full.steps)
