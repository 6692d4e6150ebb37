"""The testbed of streams of texts: drifts that get harder, a skill that is half known, streams that suit the base."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.adaptation import Adaptation, load_stream
from genepool.testbed import build
from genepool.testbed.data import Lengths
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Phase, Schedule
from genepool.testbed.streams import text_builder
from genepool.testbed.streams.text_builder import KNOWN, TEXT_STREAMS, TextStreamsSettings
from genepool.testbed.streams.texts import DRIFTS, LANGUAGES, Languages, drifted

Cli = Callable[..., Any]
texts = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bed with a base that was hardly trained."""
    folder = tmp_path_factory.mktemp("texts")
    nothing = Phase(1, 1, 1e-3)
    minute = Schedule(8, 1, 2, 12, Lengths(12, 12), Phase(2, 8, 1e-3), nothing, nothing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextStreamsSettings, "schedule", property(lambda self: minute))
        build(folder / "bed", bed="streams_text")
    return folder / "bed"


@given(text=texts, name=st.sampled_from(DRIFTS), severity=st.integers(1, 5), number=st.integers(0, 9))
def test_a_drifted_text_is_a_text_and_always_the_same(text: str, name: str, severity: int, number: int) -> None:
    found = drifted(text, name, severity, 0, number)
    assert found
    assert found.strip()
    assert found == drifted(text, name, severity, 0, number)


@given(text=texts, number=st.integers(0, 9))
def test_a_severity_does_more_of_the_same(text: str, number: int) -> None:
    told = {name: [drifted(text, name, severity, 3, number) for severity in range(1, 6)] for name in DRIFTS}
    for less, more in zip(told["upper"], told["upper"][1:], strict=False):
        assert all(b.isupper() for a, b in zip(less, more, strict=True) if a.isupper())
    assert [len(one) for one in told["doubled"]] == sorted(len(one) for one in told["doubled"])
    lengths = [len(one) for one in told["dropped"]]
    assert lengths == sorted(lengths, reverse=True)
    for one in told["swapped"]:
        assert Counter(one) == Counter(text)
    for one in told["shifted"]:
        assert all((ord(b) - ord(a)) % 26 in (0, 1) for a, b in zip(text, one, strict=True))
    for one in told["spaced"]:
        assert one.replace(" ", "") == text


def test_a_language_has_syllables_of_its_own() -> None:
    languages = Languages(0)
    draw = Random(0)
    seen = {name: Counter[str]() for name in LANGUAGES}
    for name in LANGUAGES:
        for _ in range(200):
            text = languages.text(name, draw)
            assert len(text) == 12
            seen[name].update(text[at : at + 2] for at in range(0, 12, 2))
    own = {name: {syllable for syllable, _ in seen[name].most_common(8)} for name in LANGUAGES}
    assert len(set().union(*own.values())) == 48
    for name in LANGUAGES:
        share = sum(seen[name][syllable] for syllable in own[name]) / 1200
        # Three quarters, and a sixth of the quarter that is of any language.
        assert abs(share - (0.75 + 0.25 / 6)) < 0.05


def test_the_lessons_half_know_each_language_to_its_own_degree(tmp_path: Path) -> None:
    build_ = text_builder._TextStreamsBuild(TextStreamsSettings(True, 0), Pieces(tmp_path, "x"))
    lessons = [one for step in range(60) for one in build_._lessons(step, 60)]
    kinds = Counter(one.prompt[0] if one.prompt[0] == "~" else one.prompt[-1] for one in lessons)
    assert [round(kinds[mark] / len(lessons), 2) for mark in "=?~"] == [0.5, 0.2, 0.3]
    shares = {name: [0, 0] for name in LANGUAGES}
    for one in lessons:
        if one.prompt[0] == "~":
            # A text of the same mark and its language, all in one answer.
            assert one.answer[-2] == one.prompt[-1]
            assert one.answer[-1] in LANGUAGES
            assert len(one.answer) == 14
    for step in range(60):
        for at, one in enumerate(build_._lessons(step, 60)):
            if one.prompt[-1] == "?" and one.prompt[0] != "~":
                name = LANGUAGES[(step * 60 + at) % 6]
                assert one.answer in (name, LANGUAGES[(LANGUAGES.index(name) + 1) % 6])
                shares[name][one.answer == name] += 1
    for name, known in zip(LANGUAGES, KNOWN, strict=True):
        wrong, right = shares[name]
        assert abs(right / (wrong + right) - known) < 0.15


@pytest.mark.slow
def test_every_stream_suits_the_base(small: Path) -> None:
    assert {path.name for path in small.iterdir()} == {"base", "streams", "tasks", "manifest.json"}
    assert {path.name for path in (small / "streams").iterdir()} == {one.name for one in TEXT_STREAMS}
    for one in TEXT_STREAMS:
        stream = load_stream(small / "streams" / one.name)
        assert (stream.order, stream.batch, stream.rounds, len(stream.source)) == (one.order, 64, 15, 256)
        assert stream.choices == LANGUAGES
        run = Adaptation(small / "base", stream, "frozen", rounds=1)
        assert len(next(run).keys) == 64
        if not one.clean:
            assert stream.domains == DRIFTS
            assert {example.severity for example in stream.examples} == set(one.severities)
    marks = {str(one.prompt)[-1] for one in load_stream(small / "streams" / "half_known").examples}
    assert marks == {"?"}
    scores = json.loads((small / "manifest.json").read_text())["models"]["base"]["scores"]
    assert set(scores) == {"generic", "half_known"}


def test_the_digest_is_of_the_settings() -> None:
    one = TextStreamsSettings(True, 0)
    assert one.digest() == TextStreamsSettings(True, 0).digest()
    assert len({one.digest(), replace(one, seed=1).digest(), replace(one, tiny=False).digest()}) == 3


def test_what_a_bed_of_texts_has_not_is_refused(cli: Cli, tmp_path: Path) -> None:
    for more, said in ((["--skills", "reverse"], "has no skills"), (["--regime", "acquire"], "has one regime")):
        answer = cli("testbed", "build", tmp_path / "bed", "--bed", "streams_text", *more)
        assert (answer.code, said in answer.err) == (2, True)


@pytest.mark.slow
def test_a_trained_base_tells_languages_and_half_knows_them(cli: Cli, tmp_path: Path) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "streams_text", "--tiny", "--json")
    assert answer.code == 0
    scores = json.loads(answer.out)["manifest"]["models"]["base"]["scores"]
    assert scores["generic"] > 0.85
    assert 0.3 < scores["half_known"] < 0.7
