"""Series: windows of time, truth that comes step by step, forecasts that are scored, and a run as it is typed."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_series import BATCH, HORIZON, LOOKBACK, VARIABLES, series_rows, write_forecaster, write_series

import genepool as gp
from genepool.adaptation import Adaptation, Stream, StreamExample, load_stream
from genepool.adaptation.adapter import Answered
from genepool.adaptation.results import pooled
from genepool.adaptation.series import (
    SeriesLine,
    dominant_period,
    error_of,
    score_of,
    squared_errors,
    windows_of,
    written,
)
from genepool.adaptation.stream_record import IssuedRow, StreamRecord
from genepool.adaptation.watch import WINDOW, SeriesWatch
from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.tasks.models.forecaster import Forecaster
from genepool.tasks.models.forecaster.network import ForecasterNetwork, ForecasterShape

Cli = Callable[..., Any]


# ---------------------------------------------------------------------- the forecaster


@pytest.mark.parametrize("normalised", ["none", "last", "window"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_a_forecast_is_the_map_of_what_is_left_of_a_window(tmp_path: Path, normalised: Any, hidden: int) -> None:
    shape = ForecasterShape(5, 2, hidden, normalised)
    model = open_model(write_forecaster(tmp_path / "m", shape)).load()
    assert isinstance(model, Forecaster)
    window = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    found = model.forecast(window)
    tensors = dict(model.model.named_parameters())
    for example, variable in itertools.product(range(3), range(2)):
        past = window[example, :, variable]
        taken, scale = torch.tensor(0.0), torch.tensor(1.0)
        if normalised == "last":
            taken = past[-1]
        elif normalised == "window":
            taken, scale = past.mean(), (past - past.mean()).square().mean().sqrt() + 1e-5
        given = (past - taken) / scale
        wanted = tensors["linear.weight"] @ given + tensors["linear.bias"]
        if hidden:
            inner = torch.nn.functional.gelu(tensors["first.weight"] @ given + tensors["first.bias"])
            wanted = wanted + tensors["second.weight"] @ inner + tensors["second.bias"]
        torch.testing.assert_close(found[example, :, variable], wanted * scale + taken, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lookback": 0}, "config.json:lookback: got 0"),
        ({"horizon": "4"}, "config.json:horizon: got '4'"),
        ({"hidden_size": -1}, "config.json:hidden_size"),
        ({"normalised": "best"}, "expected one of none, last, window"),
        ({"lookback": 9}, r"linear.weight has shape \[4, 8\], and its config.json asks for \[4, 9\]"),
        ({"lookback": 100_000, "horizon": 100_000}, r"asks for \[100000, 100000\]"),
    ],
)
def test_a_config_that_is_wrong_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    folder = write_forecaster(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(InputError, match=said):
        open_model(folder).load()


def test_a_forecaster_does_not_write_and_others_do_not_forecast(cli: Cli, forecaster: Path, base: Path) -> None:
    answer = cli("generate", forecaster, "--prompt", "a")
    assert (answer.code, "Use it for forecasts" in answer.err) == (2, True)
    with pytest.raises(InputError, match="cannot forecast a series"):
        open_model(base).load().forecast(torch.zeros(1, 8, 1))


# ---------------------------------------------------------------------- windows and scores


@given(
    steps=st.integers(1, 30), lookback=st.integers(1, 6), horizon=st.integers(1, 6), stride=st.integers(1, 5),
    variables=st.integers(1, 3),
)  # fmt: skip
def test_a_window_and_what_follows_are_the_series(
    steps: int, lookback: int, horizon: int, stride: int, variables: int
) -> None:
    lines = [SeriesLine(f"t{at}", tuple(float(at * 10 + k) for k in range(variables)), f"d{at}") for at in range(steps)]
    if steps < lookback + horizon:
        with pytest.raises(InputError, match=f"has {steps} steps, expected {lookback + horizon}"):
            windows_of(lines, lookback, horizon, stride, "s")
        return
    found = windows_of(lines, lookback, horizon, stride, "s")
    assert [one.end for one in found] == list(range(lookback - 1, steps - horizon, stride))
    for one in found:
        whole = [value for line in lines[one.end + 1 - lookback : one.end + 1 + horizon] for value in line.values]
        assert [*one.past, *one.future] == whole
        assert (one.key, one.domain) == (f"t{one.end}", f"d{one.end + 1}")


def test_too_many_numbers_are_refused() -> None:
    lines = [SeriesLine(str(at), (0.0,) * 3, "") for at in range(30_000)]
    with pytest.raises(InputError, match="Set a larger `stride`"):
        windows_of(lines, 1000, 1, 1, "s")


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=6))
def test_what_is_written_is_read_back_bit_for_bit(values: list[float]) -> None:
    assert torch.equal(
        torch.tensor(json.loads(written(values)), dtype=torch.float32), torch.tensor(values, dtype=torch.float32)
    )
    assert error_of(written(values), written(values)) == 0


def test_scores_by_hand() -> None:
    assert error_of("[1, 2]", "[0, 4]") == 2.5
    assert error_of(None, "[0]") == math.inf
    assert [score_of(one) for one in (0.0, 1.0, math.inf)] == [1.0, 0.5, 0.0]
    assert squared_errors(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.0], [4.0]]])).tolist() == [2.5]


def test_the_period_is_that_of_the_strongest_season() -> None:
    steps = torch.arange(48.0)
    season = torch.stack([0.1 * torch.sin(steps), torch.sin(2 * math.pi * steps / 12)], dim=1)
    assert dominant_period(season, 24) == 12
    assert dominant_period(season, 6) == 6
    # A trend is as long as the window, and what never changes has no period.
    assert dominant_period(steps[:, None], 100) == 48
    assert dominant_period(torch.ones(8, 1), 100) == 8


def test_neighbours_that_overlap_count_once() -> None:
    row = IssuedRow(1, 0, "a", "d", True, "x", 0.0, 0.0, "x", 1.0, 0.0)
    domains = ["d"] * 5 + ["e"] * 3
    given_rows = [
        IssuedRow(1, 0, str(at), domain, True, str(at), float(at), 0.0, "3", 1.0, 0.0)
        for at, domain in enumerate(domains)
    ]
    found = pooled(given_rows, 2)
    # What is left of a domain goes into the block before.
    assert [(one.domain, one.score, one.frozen_score) for one in found] == [
        ("d", 0.5, 1.0), ("d", 3.0, 1.0), ("e", 6.0, 1.0),
    ]  # fmt: skip
    assert all(one.issued != one.frozen for one in found)
    assert pooled([row], 1) == [row]
    # Domains that alternate, as days and nights do, make no window an example of its own.
    turns = [IssuedRow(1, 0, str(at), "de"[at % 2], True, str(at), float(at), 0.0, "3", 1.0, 0.0) for at in range(8)]
    assert [(one.domain, one.score) for one in pooled(turns, 2)] == [("d", 1.0), ("d", 5.0), ("e", 2.0), ("e", 6.0)]
    assert [one.score for one in pooled(turns, 4, by_domain=False)] == [1.5, 5.5]


# ---------------------------------------------------------------------- the folder


def test_a_series_is_read(series: Path) -> None:
    stream = load_stream(series)
    assert (stream.shape, stream.horizon, stream.rounds) == ((LOOKBACK, VARIABLES), HORIZON, 1)
    assert len(stream.examples) == 48 - LOOKBACK - HORIZON + 1
    assert stream.domains == ("first", "second")
    folder = write_series(series.parent / "other", horizon=3)
    assert load_stream(folder).digest != stream.digest
    values = [row["input"] for row in series_rows()]
    memory = Stream.of_series(values, LOOKBACK, HORIZON, batch=BATCH, name="series")
    assert [one.numbers for one in memory.examples] == [one.numbers for one in stream.examples]
    with pytest.raises(InputError, match="NaN|finite"):
        Stream.of_series([[float("nan")]] * 20, 4, 2)


FAULTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"input": [float("nan"), 0.0]}, {}, "stream.jsonl:2: an input holds NaN or infinity"),
    ({"input": [1.0]}, {}, r"stream.jsonl:2: its input has shape [1], expected [2]"),
    ({"input": [[1.0, 2.0]]}, {}, "stream.jsonl:2: its input has shape [1, 2]"),
    ({"answer": "cat"}, {}, "t1: has `answer`, which a step of a series has not"),
    ({"severity": 2}, {}, "has `severity`"),
    ({"known": False}, {}, "has `known`"),
    ({}, {"horizon": None}, "stream.json:horizon: is missing for a series"),
    ({}, {"lookback": 0}, "stream.json:lookback"),
    ({}, {"lookback": 100}, "has 48 steps, expected 104 or more"),
    ({}, {"order": "mixed"}, "a series comes in the order of time, got mixed"),
    ({}, {"rounds": 3}, "a series is gone through once, got 3"),
]


@pytest.mark.parametrize(("line", "settings", "said"), FAULTS, ids=[said[-40:] for *_, said in FAULTS])
def test_a_fault_is_named(tmp_path: Path, line: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    lines = series_rows()
    lines[1] = {**lines[1], **line}
    with pytest.raises(InputError) as error:
        load_stream(write_series(tmp_path / "s", lines, **settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_prompts_and_labels_are_no_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", [{"id": str(at), "prompt": "x"} for at in range(20)], source=False)
    with pytest.raises(InputError, match="has `prompt`, which a step of a series has not"):
        load_stream(folder)
    folder = write_series(tmp_path / "b")
    (folder / "labels.jsonl").write_text('{"id": "t1", "answer": "cat"}\n')
    with pytest.raises(InputError, match="a series brings its own labels"):
        load_stream(folder)


def test_models_and_streams_of_another_kind_are_refused(
    cli: Cli, base: Path, stream: Path, forecaster: Path, series: Path, tmp_path: Path
) -> None:
    other = write_forecaster(tmp_path / "other", ForecasterShape(9, 4))
    for typed, said in (
        ([base, "--stream", series, "--adapter", "frozen"], "is a series, and"),
        ([forecaster, "--stream", stream, "--adapter", "frozen"], "is no series, and"),
        (
            [forecaster, "--stream", series, "--adapter", "tent"],
            "is a forecaster, and tent adapts classifiers",
        ),
        ([other, "--stream", series, "--adapter", "frozen"], "has windows of 8 and 4 steps, expected 9 and 4"),
        ([forecaster, "--stream", series, "--adapter", "petsa", "--labels-late", "1"], "comes as time passes"),
        ([forecaster, "--stream", series, "--adapter", "petsa", "--rounds", "2"], "is gone through once"),
        ([forecaster, "--stream", series, "--adapter", "petsa", "--order", "mixed"], "in the order of time"),
        ([forecaster, "--stream", series, "--adapter", "petsa", "--window", "4"], "--window"),
    ):
        answer = cli("adapt", *typed, "--out", tmp_path / "run")
        assert (answer.code, said in answer.err) == (2, True), answer.err
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- truth that comes


def test_the_truth_comes_step_by_step(forecaster: Path, series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, once the last step of a batch's last window is read; and of the batch itself what its windows show."""
    run = Adaptation(forecaster, series, "frozen")
    told: list[tuple[int, list[Answered]]] = []
    learn = run.adapter.update

    def seen(batch: Any, late: Any) -> Any:
        told.append((batch.number, list(late)))
        return learn(batch, late)

    monkeypatch.setattr(run.adapter, "update", seen)
    list(run)
    values = torch.tensor([row["input"] for row in series_rows()])
    whole: list[int] = []
    for number, late in told:
        known = run.stream.examples[run.batches[number].places[-1]].end
        for one in late:
            ends = [run.stream.examples[place].end for place in run.batches[one.batch.number].places]
            assert one.whole == (one.batch.number < number) == bool(one.targets.isfinite().all())
            whole += [one.batch.number] if one.whole else []
            for row, end in zip(one.targets, ends, strict=True):
                come = min(HORIZON, max(0, known - end))
                torch.testing.assert_close(row[:come], values[end + 1 : end + 1 + come])
                assert row[come:].isnan().all()
            assert one.batch.number == number or ends[-1] + HORIZON <= known
    # Every batch once, in order; those near the end never.
    assert whole == list(range(len(whole)))
    assert 0 < len(whole) < len(run.batches)


def test_other_values_later_change_nothing_before(forecaster: Path, tmp_path: Path) -> None:
    lines = series_rows()
    changed = [{**row, "input": [9.0, -9.0]} if at >= 30 else row for at, row in enumerate(lines)]
    for name in ("petsa", "online", "refit", "camel"):
        runs = [
            Adaptation(
                forecaster,
                write_series(tmp_path / f"{name} {at}", part),
                name,
                options={"steps": 20} if name == "camel" else None,
            )
            for at, part in enumerate((lines, changed))
        ]
        first, second = (
            [step.probabilities for step in run if run.stream.examples[step.position + 2].end < 30] for run in runs
        )
        assert len(first) > 4
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# ---------------------------------------------------------------------- the run


def test_a_run_scores_errors_beside_the_frozen_model(cli: Cli, forecaster: Path, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = ["adapt", forecaster, "--stream", series, "--adapter", "petsa", "--set", "rate=0.01", "--clean", series]
    answer = cli(*typed, "--out", out, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    values = torch.tensor([row["input"] for row in series_rows()])
    network = open_model(forecaster).load().model
    assert isinstance(network, ForecasterNetwork)
    ends = range(LOOKBACK - 1, 48 - HORIZON)
    with torch.no_grad():
        frozen = [
            float((network(values[None, end - 7 : end + 1]) - values[end + 1 : end + 5]).square().mean())
            for end in ends
        ]
    assert told["error"]["frozen"] == pytest.approx(sum(frozen) / len(frozen), rel=1e-5)
    assert told["error"]["block"] == HORIZON
    assert told["error"]["late"] != told["error"]["adapted"] != told["error"]["frozen"]
    assert told["clean_before"] == pytest.approx(sum(1 / (1 + one) for one in frozen) / len(frozen), rel=1e-5)
    # 16 windows of the first domain and 21 of the second; what is left of a domain goes into its last block.
    assert told["history"][0]["n"] == 16 // 4 + 21 // 4
    assert told["skill"] is None
    with StreamRecord(out / "stream.sqlite") as record:
        errors, issued = record.errors(), record.issued()
    assert [one for _, one, _ in errors] == pytest.approx(frozen, rel=1e-5)
    assert [row.score for row in issued] == pytest.approx([score_of(float(one or 0)) for one, _, _ in errors])
    page = (out / "report.html").read_text()
    assert "Mean squared error" in page
    assert "spread of the forecasts" in page
    assert "commonest prediction" not in page
    assert "Domains in turn" in page
    said = cli(*typed, "--out", out).out
    assert "mean squared error: " in said
    assert cli("report", out, "--out", tmp_path / "page.md").code == 0


def test_a_forecaster_that_learned_gives_a_skill(cli: Cli, forecaster: Path, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli("adapt", forecaster, "--stream", series, "--adapter", "online", "--out", out).code == 0
    skill = out / "skill.safetensors"
    assert cli("skill", "apply", skill, "--base", forecaster, "--out", tmp_path / "adapted").code == 0
    typed = ["adapt", tmp_path / "adapted", "--stream", series, "--adapter", "frozen", "--json"]
    again = json.loads(cli(*typed, "--out", tmp_path / "again").out)
    assert again["error"]["frozen"] != json.loads((out / "adapt.json").read_text())["error"]["frozen"]


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


@pytest.mark.parametrize("at", [0, 4, 7])
@pytest.mark.parametrize("when", ["issue", "learned"])
def test_a_killed_run_goes_on_bit_for_bit(
    cli: Cli, forecaster: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, when: str
) -> None:
    from genepool.adaptation import runner

    monkeypatch.setattr(runner, "EVERY", 3)
    typed = ["adapt", forecaster, "--stream", series, "--adapter", "petsa", "--set", "rate=0.1", "--out"]
    assert cli(*typed, tmp_path / "whole").code == 0
    write = getattr(StreamRecord, when)

    def killing(self: StreamRecord, step: Any, *others: Any) -> None:
        write(self, step, *others)
        if step.number == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StreamRecord, when, killing)
        with pytest.raises(Killed):
            cli(*typed, tmp_path / "cut")
    assert cli(*typed, tmp_path / "cut").code == 0
    tables = []
    for name in ("whole", "cut"):
        with sqlite3.connect(tmp_path / name / "stream.sqlite") as database:
            tables.append(
                [
                    database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                    for table in ("examples", "batches", "errors", "domains")
                ]
            )
    assert tables[0] == tables[1]
    for name in ("state/state.safetensors", "state/state.json", "adapt.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_that_blows_up_is_told_and_inputs_that_overflow_are_refused(
    cli: Cli, forecaster: Path, series: Path, tmp_path: Path
) -> None:
    typed = ["adapt", forecaster, "--stream", series, "--adapter", "online", "--set", "rate=1e6", "--json"]
    told = json.loads(cli(*typed, "--out", tmp_path / "a").out)
    assert told["verdict"] == "worse than doing nothing"
    lines = series_rows()
    lines[-1]["input"] = [1e38, 0.0]
    stream = write_series(tmp_path / "s", lines, source=False)
    answer = cli("adapt", forecaster, "--stream", stream, "--adapter", "frozen", "--out", tmp_path / "b", "--json")
    assert answer.code == 0, answer.err
    lines[10]["input"] = [-3e38, 3e38]
    lines[11]["input"] = [3e38, -3e38]
    stream = write_series(tmp_path / "t", lines, source=False)
    answer = cli("adapt", forecaster, "--stream", stream, "--adapter", "frozen", "--out", tmp_path / "c")
    assert (answer.code, "predicts NaN for" in answer.err) == (2, True)


def test_a_classifier_and_a_forecaster_go_on_from_python(forecaster: Path, series: Path, tmp_path: Path) -> None:
    run = gp.adapt(forecaster, series, adapter="petsa")
    for _, step in zip(range(4), run, strict=False):
        assert step.probabilities.shape == (BATCH, HORIZON, VARIABLES)
    run.save(tmp_path / "state")
    again = gp.adapt(forecaster, series, adapter="petsa", state=tmp_path / "state")
    assert again.done == 4
    with pytest.raises(InputError, match="state of another run.*stream was"):
        gp.adapt(
            forecaster, write_series(tmp_path / "o", series_rows(seed=3)), adapter="petsa", state=tmp_path / "state"
        )


# ---------------------------------------------------------------------- the watch


def test_the_watch_of_forecasts_sees_them_flatten_and_blow_up() -> None:
    frozen = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    for factor, said in ((1.0, ""), (0.2, ""), (5.0, ""), (0.05, "spread by"), (20.0, "spread by")):
        watch = SeriesWatch()
        alarms = [watch.look(frozen * factor, frozen, 1.0)[1] for _ in range(WINDOW + 3)]
        assert [said in alarm for alarm in alarms if alarm] == ([True] if said else [])
        assert not any(alarms[: WINDOW - 1])
        again = SeriesWatch()
        again.restore(json.loads(json.dumps(watch.state())))
        assert again.state() == watch.state()
    signs, alarm = SeriesWatch().look(frozen * float("nan"), frozen, 1.0)
    assert (signs.broken, alarm) == (True, "a forecast is not a number")
    for broken in ({"spreads": [[1, -1]], "lasting": 0}, {"spreads": [], "lasting": 99}):
        with pytest.raises(ValueError):
            SeriesWatch().restore(broken)


def test_an_example_says_which_step_it_ends_at() -> None:
    assert StreamExample("a", None, (), None).end == -1
    assert Stream.of_series([[0.0]] * 6, 2, 2).examples[1].end == 2
