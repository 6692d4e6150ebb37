"""The real series that ship with statsmodels: its data files are read, its code is not run.

co2: weekly carbon dioxide at Mauna Loa; sunspots: yearly; elnino: monthly temperatures of the sea; macrodata: quarterly
accounts of the United States. All are in the public domain. Uses the csv module.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import numpy as np

from genepool.errors import InputError
from genepool.testbed.series.made import MadeSeries

#: What each is called and what is in it, in the order of the names.
REAL = {
    "co2": "weekly carbon dioxide at Mauna Loa, 1958 to 2001; a gap holds the week before",
    "elnino": "monthly temperature of the Pacific's surface, 1950 to 2010",
    "macrodata": "twelve quarterly accounts of the United States, 1959 to 2009",
    "sunspots": "yearly sunspots, 1700 to 2008",
}
#: The part of a series that a forecaster is fitted to.
TRAINED = 0.6


def real_series(name: str) -> MadeSeries:
    """One of the series, each variable less its mean over the training and divided by its spread there.

    Raises:
        InputError: statsmodels is not installed, or its file is another one.
    """
    path = data_folder() / name / f"{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = [row for row in csv.reader(file) if row][1:]
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="Install statsmodels again") from None
    try:
        keys, values = _READERS[name](lines)
        values = filled(values)
    except (ValueError, IndexError):
        raise InputError("is not the file of this series", where=path, fix="Install statsmodels again") from None
    trained = round(TRAINED * len(values))
    mean, spread = values[:trained].mean(0), values[:trained].std(0)
    return MadeSeries((values - mean) / spread, ("",) * len(values), tuple(keys), trained)


def data_folder() -> Path:
    """Where statsmodels keeps its data sets.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec("statsmodels")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "the real series are those of statsmodels, which is not installed",
            where="bed",
            fix='Install it: pip install "genepool[series]"',
        )
    return Path(next(iter(found.submodule_search_locations))) / "datasets"


def filled(values: np.ndarray) -> np.ndarray:
    """A series whose gaps hold the last value before them, so that none tells what comes; shape (steps, variables).

    Raises:
        ValueError: a column has no numbers.
    """
    found = values.copy()
    for column in found.T:
        there = np.isfinite(column)
        if not there.any():
            raise ValueError("a column without numbers")
        known = np.maximum.accumulate(np.where(there, np.arange(len(column)), -1))
        column[:] = column[np.where(known < 0, there.argmax(), known)]
    return found


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _dated(lines: list[list[str]]) -> tuple[list[str], np.ndarray]:
    """A column of dates and one of values."""
    return [row[0] for row in lines], np.array([[_number(row[1])] for row in lines])


def _months(lines: list[list[str]]) -> tuple[list[str], np.ndarray]:
    """A year a row, with a column for each month."""
    keys = [f"{int(float(row[0]))}-{month:02d}" for row in lines for month in range(1, 13)]
    return keys, np.array([[_number(one)] for row in lines for one in row[1:13]])


def _quarters(lines: list[list[str]]) -> tuple[list[str], np.ndarray]:
    """Year, quarter, and a column for each account."""
    keys = [f"{int(float(row[0]))}-Q{int(float(row[1]))}" for row in lines]
    return keys, np.array([[_number(one) for one in row[2:]] for row in lines])


_READERS = {"co2": _dated, "elnino": _months, "macrodata": _quarters, "sunspots": _dated}
