"""Making the testbeds of series: forecasters fitted in closed form, and streams of what follows.

`genepool.testbed.build(folder, bed="series")` publishes what is made here: a base and two synthetic series, one of
which drifts. With bed="series_real" it is a base of four real series together, and a specialist of each. A fit is
exact, so a base is as good as it can be: what an adapter gains is no training that was left out. torch is imported
only once something has to be made.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genepool import progress
from genepool.errors import InputError, nearest
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.pieces import Pieces
from genepool.testbed.series.made import MadeSeries, made_series
from genepool.testbed.series.real import REAL, real_series
from genepool.testbed.settings import BedSettings
from genepool.threads import torch_threads

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.forecaster.network import ForecasterNetwork

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 2
LOOKBACK, HORIZON = 48, 24
#: What is taken from a window before the map: its last value, which already takes away most of what a level does.
NORMALISED: Literal["last"] = "last"
#: Of the fit, for each row; keeps neighbouring weights from blowing each other up.
RIDGE = 1e-3
#: Steps of a synthetic series in training and after it.
STEPS, TINY_STEPS = 1200, 400


@dataclass(frozen=True)
class SeriesSchedule:
    """Every number of a build.

    Attributes:
        lookback, horizon: steps that are read, and forecast.
        normalised: what is taken from a window before the map.
        ridge: of the fit.
        steps: of a synthetic series in training, and as many after it.
    """

    lookback: int
    horizon: int
    normalised: str
    ridge: float
    steps: int


@dataclass(frozen=True)
class SeriesSettings(BedSettings):
    """Everything that decides what a build makes; its skills are the real series, none for the synthetic ones."""

    bed: str = "series"
    version: ClassVar[int] = RECIPE_VERSION

    @classmethod
    def of(cls, bed: str, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> SeriesSettings:
        """Checked; all real series when `skills` is None.

        Raises:
            InputError: another regime is named, or a series that there is not.
        """
        if regime != "elicit":
            raise InputError("the testbed of series has one regime, elicit", where="regime", fix="Leave it out")
        if bed == "series":
            if skills is not None:
                raise InputError("the testbed of series has no skills", where="skills", fix="Leave it out")
            return cls(tiny, seed, ())
        chosen = list(REAL) if skills is None else list(skills)
        for name in chosen:
            if name not in REAL:
                raise InputError(f"there is no series '{name}'", where="skills", fix=nearest(name, REAL))
        if not chosen or len(set(chosen)) < len(chosen):
            raise InputError("needs different series, one or more", where="skills", fix="Name each once")
        return cls(tiny, seed, tuple(chosen), bed)

    @property
    def schedule(self) -> SeriesSchedule:
        """The numbers of the build."""
        return SeriesSchedule(LOOKBACK, HORIZON, NORMALISED, RIDGE, TINY_STEPS if self.tiny else STEPS)

    def series(self) -> dict[str, MadeSeries]:
        """The series by name, as they become streams.

        Raises:
            InputError: the real ones are not there.
        """
        if self.skills:
            return {name: real_series(name) for name in self.skills}
        steps = self.schedule.steps
        return {name: made_series(name == "drift", steps, steps, self.seed) for name in ("steady", "drift")}

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Fits everything, writes the streams and returns the manifest."""
        series = self.series()
        with progress.bar("loading torch"):
            import torch

            from genepool.tasks.models.forecaster import network  # noqa: F401  (the bar is for these seconds)
        # Constructors draw from torch's global generator; the caller gets it back as it was.
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            return _SeriesBuild(self, pieces, series).run()


class _SeriesBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: SeriesSettings, pieces: Pieces, series: Mapping[str, MadeSeries]) -> None:
        self.settings, self.pieces, self.series = settings, pieces, series

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        models = {"base": tuple(self.series), **{f"full/{name}": (name,) for name in self.settings.skills}}
        with progress.bar("building the testbed of series", len(self.series) + len(models), "pieces") as bar:
            for name, one in self.series.items():
                bar.note(f"the stream {name}")
                self._write(name, one)
                bar.advance()
            for model, names in models.items():
                bar.note(model)
                self._fit(model, names)
                bar.advance()
        return self._manifest(self.pieces.collect(list(models)))

    def _write(self, name: str, series: MadeSeries) -> None:
        target = self.pieces.staging / "streams" / name
        if not target.exists():
            with staged_folder(target) as unfinished:
                write_series(unfinished, name, series)

    def _fit(self, model: str, names: tuple[str, ...]) -> None:
        """Fits a forecaster to the training of some series and publishes it, unless a killed build had finished it."""
        from safetensors.torch import save_file

        if self.pieces.finished(model):
            return
        # The synthetic series are the same one as long as the training lasts.
        learned = names if self.settings.skills else names[:1]
        network = fitted([self.series[name] for name in learned])
        scores = {name: round(_score(network, self.series[name]), 4) for name in self.series}

        def save(place: Path) -> None:
            save_file(network.state_dict(), place / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(network.shape.config(), indent=2, sort_keys=True)
            (place / "config.json").write_text(text + "\n", encoding="utf-8")

        self.pieces.publish(model, {"steps": 1, "scores": scores}, save)

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": list(self.settings.skills)},
            "schedule": asdict(self.settings.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch")},
            },
            "skills": {name: {"does": REAL[name]} for name in self.settings.skills},
            "streams": {name: {"steps": len(one.values), "trained": one.trained} for name, one in self.series.items()},
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }


def write_series(place: Path, name: str, series: MadeSeries) -> None:
    """Writes one stream: what follows the training, with the training as source.

    The first window ends where the training does. A batch is a dominant period and one, as PETSA and TAFAS have it, so
    that within one the truth of a period's steps comes.

    Args:
        place: an empty folder.
        name: of the stream.
        series: all of it.
    """
    import torch

    from genepool.adaptation.series import dominant_period

    start = series.trained - LOOKBACK
    window = torch.tensor(series.values[start : series.trained])
    batch = 1 + max(1, dominant_period(window, HORIZON))
    settings = {"genepool_stream": 1, "name": name, "batch": batch, "lookback": LOOKBACK, "horizon": HORIZON}
    (place / "stream.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for file, steps in (
        ("stream.jsonl", range(start, len(series.values))),
        ("source.jsonl", range(series.trained)),
    ):
        lines = [
            {
                "id": series.keys[at],
                "input": [round(float(one), 6) for one in series.values[at]],
                **({"domain": series.domains[at]} if series.domains[at] else {}),
            }
            for at in steps
        ]
        (place / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def fitted(series: Sequence[MadeSeries]) -> ForecasterNetwork:
    """The linear forecaster whose squared error over every training window is the least, with a small ridge."""
    import torch

    from genepool.tasks.models.forecaster.network import ForecasterNetwork, ForecasterShape

    pasts, futures = [], []
    for one in series:
        past, future = _windows(one, LOOKBACK, one.trained - HORIZON)
        # A row is one variable of a window, less its last value.
        past, future = (values.transpose(1, 2).flatten(0, 1) for values in (past, future))
        pasts.append(past - past[:, -1:])
        futures.append(future - past[:, -1:])
    given = torch.cat(pasts)
    given = torch.cat([given, torch.ones(len(given), 1, dtype=given.dtype)], dim=1)
    ridge = RIDGE * len(given) * torch.eye(LOOKBACK + 1, dtype=given.dtype)
    ridge[-1, -1] = 0
    solved = torch.linalg.solve(given.T @ given + ridge, given.T @ torch.cat(futures))
    network = ForecasterNetwork(ForecasterShape(LOOKBACK, HORIZON, normalised=NORMALISED)).eval()
    with torch.no_grad():
        network.linear.weight.copy_(solved[:-1].T)
        network.linear.bias.copy_(solved[-1])
    return network


def _windows(series: MadeSeries, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pasts and futures whose futures begin at the steps from `first` to `last`: (n, steps, variables), float64."""
    import torch

    values = torch.tensor(series.values, dtype=torch.float64)
    starts = range(first, last + 1)
    pasts = torch.stack([values[at - LOOKBACK : at] for at in starts])
    return pasts, torch.stack([values[at : at + HORIZON] for at in starts])


def _score(network: ForecasterNetwork, series: MadeSeries) -> float:
    """The mean of 1 / (1 + mean squared error) over the windows of its stream."""
    import torch

    from genepool.adaptation.series import score_of, squared_errors

    past, future = _windows(series, series.trained, len(series.values) - HORIZON)
    with torch.inference_mode():
        errors = squared_errors(network(past.float()), future).tolist()
    return sum(map(score_of, errors)) / len(errors)
