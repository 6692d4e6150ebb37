"""Streams as files and in order: what is wrong is named in one line, and every order is a permutation of the file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import rows, write_stream

from genepool.adaptation import ORDERS, Adaptation, Stream, load_stream
from genepool.adaptation.orders import planned
from genepool.errors import InputError

Change = Callable[[Path, list[dict[str, Any]]], None]


def _with(**changed: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """The lines with one of them changed."""
    return lambda lines: [lines[0], {**lines[1], **changed}, *lines[2:]]


FAULTS: list[tuple[Callable[[list[dict[str, Any]]], Any], str]] = [
    (_with(input=[0.5] * 63), "stream.jsonl:2: its input has shape [63], expected [64]"),
    (_with(input=[[0.5] * 4, [0.5] * 3]), "unequal lengths"),
    (_with(input=[float("nan")] * 64), "stream.jsonl:2: an input holds NaN or infinity"),
    (_with(input=["a"] * 64), "not lists of finite numbers"),
    (_with(input=[]), "not lists of finite numbers"),
    (_with(input=None), "has neither `prompt` nor `input`"),
    (_with(prompt="a"), "has both `prompt` and `input`"),
    (_with(input=None, prompt="a"), "has `prompt` where others have `input`"),
    (_with(id="e0"), "id 'e0' is already at"),
    (_with(id=""), "for `id`"),
    (_with(answer=3), "got 3 for `answer`"),
    (_with(domain="a\nb"), "for `domain`"),
    (_with(severity=6), "got 6 for `severity`, expected a whole number from 1 to 5"),
    (_with(known=1), "got 1 for `known`, expected true or false"),
    (_with(colour="red"), "unknown key 'colour'"),
    (lambda _: [], "holds no examples"),
    (lambda lines: [lines[0], [1, 2]], "got a list, expected an object"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS, ids=[said[:40] for _, said in FAULTS])
def test_a_fault_is_named(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    folder = write_stream(tmp_path / "s", change(rows(6)), source=False)
    with pytest.raises(InputError) as error:
        load_stream(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"genepool_stream": 2}, "newer genepool"),
        ({"order": "sideways"}, "stream.json:order"),
        ({"batch": 0}, "stream.json:batch"),
        ({"rounds": 0}, "stream.json:rounds"),
        ({"shape": [8, 8]}, "has shape [64], expected [8, 8]"),
        ({"shape": [0]}, "is not a shape"),
        ({"colour": 1}, "colour"),
        ({"batch": True}, "stream.json:batch: got true, expected a number"),
    ],
)
def test_a_fault_of_the_settings_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = write_stream(tmp_path / "s", rows(6), **settings)
    with pytest.raises(InputError) as error:
        load_stream(folder)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "stream.json: holds a list"),
        ('{"genepool_stream": 1, "batch": 3, "batch": 4}', "stream.json: cannot be read ('batch' stands twice)"),
    ],
)
def test_settings_that_are_no_settings_are_named(tmp_path: Path, text: str, said: str) -> None:
    folder = write_stream(tmp_path / "s", rows(6))
    (folder / "stream.json").write_text(text)
    with pytest.raises(InputError) as error:
        load_stream(folder)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["stream.json", "stream.jsonl", "source.jsonl", "labels.jsonl"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_stream(tmp_path / "s", rows(6))
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: is not a regular file"):
        load_stream(folder)


def test_a_class_of_the_source_is_named_in_its_file(tmp_path: Path, base: Path) -> None:
    folder = write_stream(tmp_path / "s", rows(6))
    lines = [json.loads(line) for line in (folder / "source.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**line, "answer": "cat"}) + "\n" for line in lines)
    (folder / "source.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"source.jsonl:\S+: the answer 'cat' is none of the 10 classes") as error:
        Adaptation(base, folder, "eata", rounds=1)
    assert "known: false" not in str(error.value)


ONE = [[0.0] * 64]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": ONE * 2, "answers": ["1"]}, "stream: got 1 answers for 2 inputs. Give one for each"),
        ({"inputs": ONE * 2, "domains": ["a"] * 3}, "stream: got 3 domains for 2 inputs"),
        ({"inputs": ONE, "batch": 0}, "stream: got 0 for batch, expected a whole number from 1"),
        ({"inputs": ONE, "rounds": 2.5}, "stream: got 2.5 for rounds"),
        ({"inputs": None}, "stream: got nothing for inputs, expected a list"),
        ({"inputs": "abc"}, "stream: got text for inputs, expected a list"),
        ({"inputs": []}, "stream: holds no examples"),
    ],
)
def test_what_is_no_stream_in_memory_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        Stream.of(**given)
    assert said in str(error.value)


def test_what_is_no_series_in_memory_is_named() -> None:
    with pytest.raises(InputError, match="series: got 0 for horizon"):
        Stream.of_series([[0.0]] * 9, 3, 0)
    with pytest.raises(InputError, match="series: got 1 domains for 9 inputs"):
        Stream.of_series([[0.0]] * 9, 3, 1, domains=["a"])


def test_labels_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    lines = [{key: value for key, value in row.items() if key != "answer"} for row in rows(6)]
    folder = write_stream(tmp_path / "s", lines, source=False)
    labels = folder / "labels.jsonl"
    labels.write_text('{"id": "e2", "answer": "7"}\n')
    assert [one.answer for one in load_stream(folder).examples] == [None, None, "7", None, None, None]
    labels.write_text('{"id": "e9", "answer": "7"}\n')
    with pytest.raises(InputError, match="a label for 'e9', an example that never came"):
        load_stream(folder)
    labels.write_text('{"id": "e2", "answer": "7"}\n' * 2)
    with pytest.raises(InputError, match="a second label for 'e2'"):
        load_stream(folder)


def test_the_digest_is_of_what_decides(tmp_path: Path) -> None:
    first = load_stream(write_stream(tmp_path / "a", rows(6)))
    assert load_stream(write_stream(tmp_path / "b", rows(6))).digest == first.digest
    others = [
        write_stream(tmp_path / "c", list(reversed(rows(6)))),
        write_stream(tmp_path / "d", rows(6), order="mixed"),
        write_stream(tmp_path / "e", rows(6), batch=4),
        write_stream(tmp_path / "f", rows(6), source=False),
        write_stream(tmp_path / "g", rows(6, seed=1)),
    ]
    assert first.digest not in {load_stream(one).digest for one in others}


def test_a_stream_of_what_is_in_memory() -> None:
    made = Stream.of([[0.1, 0.2], [0.3, 0.4]], ["a", None], batch=2)
    assert (made.shape, made.rounds, [one.answer for one in made.examples]) == ((2,), 1, ["a", None])
    with pytest.raises(InputError, match="holds no examples"):
        Stream.of([])
    with pytest.raises(InputError, match="shape"):
        Stream.of([[0.1], [0.1, 0.2]])


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
    order=st.sampled_from(ORDERS),
    rounds=st.integers(1, 3),
)
def test_every_round_has_every_example_once(count: int, size: int, seed: int, order: Any, rounds: int) -> None:
    stream = _made(count, seed)
    batches = planned(stream, order, rounds, seed, size)
    assert batches == planned(stream, order, rounds, seed, size)
    assert [one.number for one in batches] == list(range(len(batches)))
    for number in range(1, rounds + 1):
        places = [place for one in batches if one.round == number for place in one.places]
        assert sorted(places) == list(range(count))
    assert all(1 <= len(one.places) <= size + 1 for one in batches)
    if order != "reset" and size > 1 and count > 1:
        assert all(len(one.places) > 1 for one in batches)


def _made(count: int, seed: int) -> Stream:
    lines = rows(count, seed)
    inputs, answers, domains = ([line[key] for line in lines] for key in ("input", "answer", "domain"))
    made = Stream.of(inputs, answers, domains)
    severe = tuple(type(one)(**{**vars(one), "severity": 1 + at % 5}) for at, one in enumerate(made.examples))
    return Stream(made.name, severe, "file", 8, 1, made.shape)


def test_gradual_goes_up_and_down() -> None:
    stream = _made(40, 0)
    (batch,) = planned(stream, "gradual", 1, 0, 40)
    half = [place for place in batch.places if stream.examples[place].domain == "noise"]
    severities = [stream.examples[place].severity for place in half]
    assert severities == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_domains_stay_together_unless_mixed() -> None:
    stream = _made(40, 0)
    for order in ORDERS:
        places = [place for one in planned(stream, order, 1, 0, 8) for place in one.places]
        changes = sum(stream.examples[a].domain != stream.examples[b].domain for a, b in itertools.pairwise(places))
        assert (changes > 1) == (order == "mixed")


def test_correlated_sorts_labels_and_reset_marks_shifts() -> None:
    stream = _made(200, 3)

    def alike(order: Any) -> int:
        places = [place for one in planned(stream, order, 1, 0, 8) for place in one.places]
        answers = [stream.examples[place].answer for place in places]
        return sum(a == b for a, b in itertools.pairwise(answers))

    assert alike("correlated") > 2 * alike("shuffled")
    fresh = [stream.examples[one.places[0]].domain for one in planned(stream, "reset", 2, 0, 8) if one.fresh]
    assert fresh == ["noise", "fog", "noise", "fog"]


def test_an_order_says_what_it_lacks(tmp_path: Path) -> None:
    lines = [{key: value for key, value in row.items() if key in ("id", "input")} for row in rows(6)]
    stream = load_stream(write_stream(tmp_path / "s", lines, source=False))
    with pytest.raises(InputError, match="no `severity`"):
        planned(stream, "gradual", 1, 0)
    with pytest.raises(InputError, match="no answer"):
        planned(stream, "correlated", 1, 0)


def test_stream_json_may_be_anything(tmp_path: Path) -> None:
    folder = write_stream(tmp_path / "s", rows(6))
    for text in ("", "[]", "{", '"a"', json.dumps({"order": "mixed"})):
        (folder / "stream.json").write_text(text)
        with pytest.raises(InputError):
            load_stream(folder)
