"""Bad input of `genepool adapt` as it is typed: one line that names file, key or tensor, exit 2, nothing written."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_series import series_rows, write_series
from made_streams import image_rows, rows, write_conv_model, write_model, write_stream

from genepool.adaptation import Adaptation
from genepool.adaptation.stream_model import StreamModel
from genepool.errors import InputError
from tests.tasks.tiny_models import write_model as write_language_model

Cli = Callable[..., Any]


def refused(cli: Cli, model: Path, stream: Path, adapter: str, *more: str) -> str:
    """The one line that a typed command says, which leaves everything as it was."""
    out = stream.parent / "run"
    before = sorted(stream.parent.rglob("*"))
    answer = cli("adapt", model, "--stream", stream, "--adapter", adapter, "--out", out, "--quiet", *more)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert sorted(stream.parent.rglob("*")) == before
    return str(line)


def _second(**changed: Any) -> list[dict[str, Any]]:
    """Lines of a stream, the second of which is changed."""
    lines = rows(12)
    return [lines[0], {**lines[1], **changed}, *lines[2:]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (_second(input=[0.5] * 63), "stream.jsonl:2: its input has shape [63], expected [64]"),
        (_second(input=[[0.5] * 4, [0.5] * 3]), "stream.jsonl:2: the lists of its input have unequal lengths"),
        (_second(input=[float("nan")] * 64), "stream.jsonl:2: an input holds NaN or infinity"),
        (_second(input=[float("inf")] * 64), "stream.jsonl:2: an input holds NaN or infinity"),
        ([], "stream.jsonl: holds no examples"),
        ([{**row, "input": [0.5] * 9} for row in rows(6)], "stream.jsonl: inputs have shape [9], expected [64]"),
        (_second(answer="10"), "the answer '10' is none of the 10 classes"),
    ],
)
def test_a_stream_that_is_wrong(cli: Cli, base: Path, tmp_path: Path, lines: list[Any], said: str) -> None:
    line = refused(cli, base, write_stream(tmp_path / "s", lines, source=False), "tent")
    assert said.split(": ")[-1] in line
    if ".jsonl" in said:
        assert said in line


@pytest.mark.parametrize("key", ["batch", "rounds"])
def test_an_empty_batch(cli: Cli, base: Path, tmp_path: Path, key: str) -> None:
    line = refused(cli, base, write_stream(tmp_path / "s", **{key: 0}), "tent")
    assert f"stream.json:{key}: " in line
    assert "greater than or equal to 1" in line


@pytest.mark.parametrize("adapter", ["diversity", "lame", "roid", "rmt", "wisdom", "modulation_pool"])
def test_a_batch_of_one(cli: Cli, base: Path, tmp_path: Path, adapter: str) -> None:
    line = refused(cli, base, write_stream(tmp_path / "s", rows(6), batch=1), adapter)
    assert f"has batches of one example, and {adapter} compares the examples of a batch" in line
    assert "--window W" in line


def test_a_batch_of_one_where_a_network_normalises_by_it(cli: Cli, tmp_path: Path) -> None:
    model = write_conv_model(tmp_path / "conv")
    stream = write_stream(tmp_path / "s", image_rows(4), source=False, batch=1)
    line = refused(cli, model, stream, "tent")
    assert "has batches of one, and the batch norms of" in line
    assert "conv compare the examples of a batch" in line


def test_labels_that_are_wrong(cli: Cli, base: Path, tmp_path: Path) -> None:
    lines = [{key: value for key, value in row.items() if key != "answer"} for row in rows(6)]
    stream = write_stream(tmp_path / "s", lines)
    labels = stream / "labels.jsonl"
    late = ("--labels-late", "1")
    labels.write_text('{"id": "e0", "answer": "1"}\n{"id": "e99", "answer": "1"}\n')
    line = refused(cli, base, stream, "online", *late)
    assert "labels.jsonl:2: a label for 'e99', an example that never came" in line
    labels.write_text('{"id": "e0", "answer": "1"}\n{"id": "e0", "answer": "2"}\n')
    assert "labels.jsonl:2: a second label for 'e0'" in refused(cli, base, stream, "online", *late)
    labels.write_text('{"id": "e0", "answer": "17"}\n')
    assert "the answer '17' is none of the 10 classes" in refused(cli, base, stream, "online", *late)
    labels.unlink()
    assert "has no labels that could come late" in refused(cli, base, stream, "online", *late)
    assert "online learns from late labels" in refused(cli, base, write_stream(tmp_path / "t"), "online")


@pytest.mark.parametrize("adapter", ["eata", "rmt", "label_shift", "gain_control", "heterogeneous"])
def test_a_stream_without_source_examples(cli: Cli, base: Path, tmp_path: Path, adapter: str) -> None:
    late = ("--labels-late", "1") if adapter == "heterogeneous" else ()
    line = refused(cli, base, write_stream(tmp_path / "s", rows(12), source=False), adapter, *late)
    assert f"has no source examples, which {adapter} needs" in line
    assert "source.jsonl" in line


@pytest.mark.parametrize("adapter", ["tent", "diversity", "eata", "sar", "roid", "wisdom"])
def test_a_model_without_norms(
    cli: Cli, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    monkeypatch.setattr(StreamModel, "norms", lambda _: {})
    line = refused(cli, base, write_stream(tmp_path / "s", rows(12)), adapter)
    assert f"base: has no norm layers, which {adapter} trains" in line


def test_a_model_without_features_or_linear_layers(cli: Cli, tmp_path: Path) -> None:
    writer = write_language_model(tmp_path / "writer")
    lines = [{"id": f"t{at}", "prompt": "ab=", "answer": "a"} for at in range(4)]
    texts = write_stream(tmp_path / "s", lines, source=False, choices=["a", "b"])
    assert "writer: has no last linear layer, whose inputs are the features that lame needs" in refused(
        cli, writer, texts, "lame"
    )
    conv = write_conv_model(tmp_path / "conv")
    images = write_stream(tmp_path / "t", image_rows(8), source=False)
    line = refused(cli, conv, images, "modulation_pool")
    assert "conv: has no linear layer but that of its classes, and modulation_pool stands beside the others" in line


def test_a_model_of_another_kind(cli: Cli, base: Path, forecaster: Path, tmp_path: Path) -> None:
    series, stream = write_series(tmp_path / "s"), write_stream(tmp_path / "t", rows(12))
    assert "is a forecaster, and tent adapts classifiers" in refused(cli, forecaster, series, "tent")
    for adapter in ("petsa", "camel", "maml", "refit"):
        for model in (base, forecaster):
            line = refused(cli, model, stream, adapter)
            assert f"stream.jsonl: is no series, and {adapter} adapts forecasters of series" in line
    line = refused(cli, base, series, "petsa")
    assert "s/stream.jsonl: is a series, and" in line
    assert "base is a model of the digits testbed. Name a forecaster, or another stream." in line
    assert "writes no text, and tt_si learns from what a language model writes" in refused(cli, base, stream, "tt_si")
    wide = write_series(tmp_path / "w", series_rows(30, variables=3))
    line = refused(cli, forecaster, wide, "petsa")
    assert "source.jsonl:1: its input has shape [2], expected [3]" in line


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([0.2] * 10, "the shares sum to 2, expected 1"),
        ([0.1] * 9, "got 9 shares, expected 10"),
        ([-0.1, 0.3] + [0.1] * 8, "got the share -0.1"),
    ],
)
def test_a_distribution_that_is_none(cli: Cli, base: Path, tmp_path: Path, told: list[float], said: str) -> None:
    stream = write_stream(tmp_path / "s", rows(12))
    line = refused(cli, base, stream, "label_shift", "--set", f"distribution={json.dumps(told)}")
    assert said in line
    assert "distribution" in line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--rounds", 100_001), "--rounds: must be a whole number from 1 to 100,000, got 100001"),
        (("--rounds", 10**12), "--rounds: must be a whole number from 1 to 100,000"),
        (("--labels-late", 6), "--labels-late: got 6, and the run has 6 batches: no label would ever come"),
        (("--set", "rate=true"), "--set:rate: got true, expected a number"),
        (("--trust-tasks", "nope.py"), "'nope.py' does not exist. Try 'genepool adapt --help'"),
    ],
)
def test_what_is_out_of_bounds(cli: Cli, base: Path, tmp_path: Path, typed: tuple[Any, ...], said: str) -> None:
    stream = write_stream(tmp_path / "s", rows(12), batch=2)
    rounds = () if typed[0] == "--rounds" else ("--rounds", 1)
    assert said in refused(cli, base, stream, "tent", *map(str, (*typed, *rounds)))


def test_more_than_can_be_planned(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genepool.adaptation.suiting._MOST_PLANNED", 20)
    stream = write_stream(tmp_path / "s", rows(12))
    with pytest.raises(InputError, match="--rounds: 2 times 12 examples are 24 predictions, expected at most 20"):
        Adaptation(base, stream, "tent", rounds=2)
    for given in ({"rounds": 2.5}, {"rounds": 0}, {"rounds": 1, "labels_late": 1.5}):
        with pytest.raises(InputError, match="must be a whole number from"):
            Adaptation(base, stream, "tent", **given)


def test_a_clean_set_that_does_not_suit_is_told_before_anything_is_written(
    cli: Cli, base: Path, forecaster: Path, tmp_path: Path
) -> None:
    stream, series = write_stream(tmp_path / "s", rows(12)), write_series(tmp_path / "t")
    line = refused(cli, base, stream, "tent", "--rounds", "1", "--clean", str(series))
    assert "base is a model of the digits testbed, which reads no series. Name another --clean." in line
    line = refused(cli, forecaster, series, "frozen", "--clean", str(stream))
    assert "s/stream.jsonl: is no series, and" in line
    bare = [{key: value for key, value in row.items() if key != "answer"} for row in rows(6)]
    unlabelled = write_stream(tmp_path / "u", bare, source=False)
    line = refused(cli, base, stream, "tent", "--rounds", "1", "--clean", str(unlabelled))
    assert "u/stream.jsonl: has no labels" in line


@pytest.mark.parametrize("other", ["model", "stream"])
def test_the_state_of_another_run(cli: Cli, base: Path, tmp_path: Path, other: str) -> None:
    """The run was begun here; its state is that of another model or stream."""
    stream = write_stream(tmp_path / "s", rows(12))
    model = write_model(tmp_path / "other", seed=5) if other == "model" else base
    typed = ["--adapter", "tent", "--rounds", "1", "--out"]
    assert cli("adapt", base, "--stream", stream, *typed, tmp_path / "run").code == 0
    another = write_stream(tmp_path / "t", rows(12, seed=3)) if other == "stream" else stream
    assert cli("adapt", model, "--stream", another, *typed, tmp_path / "theirs").code == 0
    # As it is after a kill, with a state that was put there by hand.
    (tmp_path / "run" / "adapt.json").unlink()
    for file in ("state.json", "state.safetensors"):
        (tmp_path / "run" / "state" / file).write_bytes((tmp_path / "theirs" / "state" / file).read_bytes())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    answer = cli("adapt", base, "--stream", stream, *typed, tmp_path / "run", "--quiet")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert f"state: is the state of another run: {other} was" in line
    assert {path: path.read_bytes() for path in before} == before


def test_another_stream_where_a_run_lies(cli: Cli, base: Path, tmp_path: Path) -> None:
    typed = ["--adapter", "frozen", "--rounds", "1", "--out", tmp_path / "run"]
    stream = write_stream(tmp_path / "s", rows(12))
    assert cli("adapt", base, "--stream", stream, *typed).code == 0
    answer = cli("adapt", base, "--stream", write_stream(tmp_path / "t", rows(12, seed=3)), *typed)
    assert (answer.code, "the run changed since it began: stream was" in answer.err) == (2, True)


@pytest.mark.slow
def test_of_two_processes_on_one_state_one_writes(base: Path, tmp_path: Path) -> None:
    """The second says who is there; the first ends as if it had been alone."""
    stream = write_stream(tmp_path / "s")
    typed = [
        sys.executable, "-m", "genepool", "adapt", str(base), "--stream", str(stream), "--adapter", "tent", "--quiet",
        "--out",
    ]  # fmt: skip
    whole = [*typed, str(tmp_path / "run"), "--rounds", "400"]
    first = subprocess.Popen(whole, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not (tmp_path / "run" / "stream.sqlite").is_file():
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(0.05)
    second = subprocess.run(whole, capture_output=True, text=True, check=False)
    still = first.poll() is None
    assert first.communicate()[1] == ""
    assert first.returncode == 0
    if second.returncode == 2:
        (line,) = second.stderr.splitlines()
        assert "is writing here" in line
    else:
        # The first ended before the second looked.
        assert (second.returncode, still) == (0, False)
    told = json.loads((tmp_path / "run" / "adapt.json").read_text())
    assert (told["batches"], told["stopped"]) == (2400, False)
