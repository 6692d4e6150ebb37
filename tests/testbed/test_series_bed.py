"""The testbeds of series: one that drifts and one that does not, the real ones of statsmodels, exact fits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genepool.adaptation import Adaptation, load_stream
from genepool.errors import InputError
from genepool.testbed import build
from genepool.testbed.series import real
from genepool.testbed.series.builder import HORIZON, LOOKBACK, fitted
from genepool.testbed.series.made import SEASON, made_series

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small testbed of series."""
    return build(tmp_path_factory.mktemp("series") / "bed", bed="series", tiny=True).folder


def test_the_steady_series_goes_on_and_the_other_drifts() -> None:
    steady, drift = made_series(False, 240, 240, 0), made_series(True, 240, 240, 0)
    assert (steady.values[:240] == drift.values[:240]).all()
    first, last = drift.values[240:240 + 5 * SEASON], drift.values[-5 * SEASON:]  # fmt: skip
    assert last.mean() > first.mean() + 1
    assert last.std() > 1.3 * first.std()
    assert abs(steady.values[240:].mean() - steady.values[:240].mean()) < 0.3
    assert set(steady.domains) == {"steady"}
    assert list(dict.fromkeys(drift.domains[240:])) == ["early", "middle", "late"]
    assert (made_series(True, 240, 240, 1).values != drift.values).any()


def test_a_fit_is_the_least_squares_one() -> None:
    series = made_series(False, 300, 100, 0)
    network = fitted([series])
    rows, wanted = [], []
    for at in range(LOOKBACK, 300 - HORIZON + 1):
        past = series.values[at - LOOKBACK : at, 0]
        rows.append([*(past - past[-1]), 1.0])
        wanted.append(series.values[at : at + HORIZON, 0] - past[-1])
    given = np.array(rows)
    ridge = 1e-3 * len(given) * np.diag([1.0] * LOOKBACK + [0.0])
    solved = np.linalg.solve(given.T @ given + ridge, given.T @ np.array(wanted))
    np.testing.assert_allclose(network.linear.weight.detach().numpy(), solved[:-1].T, atol=1e-5)
    np.testing.assert_allclose(network.linear.bias.detach().numpy(), solved[-1], atol=1e-5)


def test_the_bed_suits_its_streams(bed: Path) -> None:
    assert {path.name for path in bed.iterdir()} == {"base", "streams", "manifest.json"}
    manifest = json.loads((bed / "manifest.json").read_text())
    for name in ("steady", "drift"):
        stream = load_stream(bed / "streams" / name)
        assert (stream.batch, stream.horizon) == (SEASON + 1, HORIZON)
        # The first step that is forecast is the first after the training.
        assert stream.examples[0].end == LOOKBACK - 1
        assert len(stream.source) == 400 - LOOKBACK - HORIZON + 1
        assert stream.source[-1].future == stream.examples[0].numbers[-HORIZON:]
        run = Adaptation(bed / "base", stream, "frozen")
        scores = [one for step in run for one in step.scores(step.frozen)]
        mean = sum(float(one or 0) for one in scores) / len(scores)
        assert manifest["models"]["base"]["scores"][name] == pytest.approx(mean, abs=1e-3)
    scores = manifest["models"]["base"]["scores"]
    assert scores["steady"] > scores["drift"]


@pytest.mark.slow
def test_it_is_built_as_it_is_typed_and_only_once(cli: Cli, tmp_path: Path) -> None:
    typed = ["testbed", "build", tmp_path / "bed", "--bed", "series", "--tiny", "--json"]
    assert json.loads(cli(*typed).out)["cached"] is False
    assert json.loads(cli(*typed).out)["cached"] is True
    answer = cli("adapt", tmp_path / "bed" / "base", "--stream", tmp_path / "bed" / "streams" / "drift", "--adapter",
                 "petsa", "--out", tmp_path / "run", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["error"]["adapted"] > 0
    for more, said in ((["--skills", "co2"], "has no skills"), (["--regime", "acquire"], "has one regime")):
        answer = cli("testbed", "build", tmp_path / "other", "--bed", "series", *more)
        assert (answer.code, said in answer.err) == (2, True)


# ---------------------------------------------------------------------- the real series


def _write_real(folder: Path) -> None:
    """Files as statsmodels has them, with made-up values."""
    draw = np.random.default_rng(0)
    weeks = [f"{19580329 + at},{'' if at % 9 == 4 else 315 + 0.01 * at}" for at in range(300)]
    years = [f"{1700 + at}.0,{50 + 40 * math.sin(at / 11 * 2 * math.pi):.1f}" for at in range(250)]
    months = [",".join([f"{1950 + at}.0", *(f"{one:.2f}" for one in 24 + draw.normal(size=12))]) for at in range(25)]
    quarters = [
        ",".join([f"{1959 + at // 4}.0", f"{at % 4 + 1}.0", *(f"{one:.3f}" for one in 100 + at + draw.normal(size=12))])
        for at in range(203)
    ]
    heads = {
        "co2": "date,co2", "sunspots": "YEAR,SUNACTIVITY", "elnino": "YEAR,JAN", "macrodata": "year,quarter,realgdp",
    }  # fmt: skip
    lines = {"co2": weeks, "sunspots": years, "elnino": months, "macrodata": quarters}
    for name, head in heads.items():
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.csv").write_text("\n".join([f'"{head}"'.replace('"', ""), *lines[name]]) + "\n")


def test_the_real_series_are_read_and_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_real(tmp_path)
    monkeypatch.setattr(real, "data_folder", lambda: tmp_path)
    shapes = {name: real.real_series(name).values.shape for name in real.REAL}
    assert shapes == {"co2": (300, 1), "elnino": (300, 1), "macrodata": (203, 12), "sunspots": (250, 1)}
    carbon = real.real_series("co2")
    # The fifth week is missing: it holds the one before, so that nothing tells what comes.
    assert carbon.values[4, 0] == carbon.values[3, 0]
    assert carbon.trained == 180
    assert carbon.values[:180].mean() == pytest.approx(0, abs=1e-9)
    assert carbon.values[:180].std() == pytest.approx(1)
    assert real.real_series("elnino").keys[:2] == ("1950-01", "1950-02")
    assert real.real_series("macrodata").keys[5] == "1960-Q2"
    built = build(tmp_path / "bed", bed="series_real", skills=["sunspots", "co2"])
    assert sorted(built.full) == ["co2", "sunspots"]
    scores = built.manifest["models"]
    assert scores["full/co2"]["scores"]["co2"] >= scores["full/sunspots"]["scores"]["co2"]
    for name in ("sunspots", "co2"):
        stream = load_stream(built.folder / "streams" / name)
        assert len(list(Adaptation(built.full[name], stream, "petsa"))) > 2
    (tmp_path / "co2" / "co2.csv").write_text("date,co2\n1,x\n")
    with pytest.raises(InputError, match="is not the file of this series"):
        real.real_series("co2")
    (tmp_path / "co2" / "co2.csv").unlink()
    with pytest.raises(InputError, match="Install statsmodels again"):
        real.real_series("co2")


def test_the_extra_is_named_where_statsmodels_is_not_there(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real.importlib.util, "find_spec", lambda name: None)
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "series_real")
    assert (answer.code, 'pip install "genepool[series]"' in answer.err) == (2, True)
    assert not (tmp_path / "bed").exists()
    for skills, said in (("co3", "Did you mean 'co2'?"), ("co2,co2", "needs different series")):
        answer = cli("testbed", "build", tmp_path / "bed", "--bed", "series_real", "--skills", skills)
        assert (answer.code, said in answer.err) == (2, True)


def test_statsmodels_own_files_are_read() -> None:
    pytest.importorskip("statsmodels")
    lengths = {name: real.real_series(name).values.shape for name in real.REAL}
    assert lengths == {"co2": (2284, 1), "elnino": (732, 1), "macrodata": (203, 12), "sunspots": (309, 1)}


def test_a_model_of_one_series_forecasts_another() -> None:
    """Variables do not mix, so a series of two is forecast as two series."""
    network = fitted([made_series(False, 200, 10, 0)])
    both = torch.randn(2, LOOKBACK, 3)
    whole = network(both)
    parts = [network(both[:, :, [at]]) for at in range(3)]
    torch.testing.assert_close(whole, torch.cat(parts, -1))
