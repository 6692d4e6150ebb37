"""A small forecaster and a series for it, made by hand: nothing is fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genepool.tasks.models.forecaster.network import ForecasterNetwork, ForecasterShape

LOOKBACK, HORIZON, VARIABLES, BATCH = 8, 4, 2, 3
SERIES_SHAPE = ForecasterShape(LOOKBACK, HORIZON, hidden=0, normalised="last")


def write_forecaster(folder: Path, shape: ForecasterShape = SERIES_SHAPE, seed: int = 0) -> Path:
    """A forecaster that was never fitted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ForecasterNetwork(shape)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return folder


def series_rows(count: int = 48, seed: int = 0, variables: int = VARIABLES) -> list[dict[str, Any]]:
    """Lines of a series: seasons of two variables with noise, a domain for each half."""
    draw = np.random.default_rng(seed)
    season = np.sin(2 * np.pi * np.arange(count)[:, None] / np.array([4, 6, 5])[:variables])
    values = (season + 0.3 * draw.normal(size=(count, variables))).round(4)
    return [
        {"id": f"t{at}", "input": values[at].tolist(), "domain": "first" if at < count // 2 else "second"}
        for at in range(count)
    ]


def write_series(
    folder: Path, lines: list[dict[str, Any]] | None = None, *, source: bool = True, **settings: Any
) -> Path:
    """A series of these lines, in batches of three windows unless something else is said."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"genepool_stream": 1, "batch": BATCH, "lookback": LOOKBACK, "horizon": HORIZON, **settings}
    (folder / "stream.json").write_text(json.dumps(said))
    for file, part in (("stream.jsonl", series_rows() if lines is None else lines), ("source.jsonl", None)):
        shown = series_rows(40, seed=7) if part is None else part
        if part is not None or source:
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in shown))
    return folder
