"""Making the testbed of streams: the base of the digits testbed, and the streams of digits that spoil what it reads.

`genepool.testbed.build(folder, bed="streams")` publishes what is made here. torch and scikit-learn are imported only
once something has to be made.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.data import SPLITS
from genepool.testbed.digits.builder import DigitsSchedule, schedule_for
from genepool.testbed.digits.rearranging import DEFAULT_TASKS, TASKS
from genepool.testbed.pieces import Pieces
from genepool.threads import torch_threads

if TYPE_CHECKING:
    from torch import nn

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 2


@dataclass(frozen=True)
class StreamsSettings:
    """Everything that decides what a build makes.

    Attributes:
        open_set: the base is never shown some digits, which the streams have.
        conv: the base is a convolutional network of clean digits instead.
    """

    tiny: bool
    seed: int
    open_set: bool = False
    conv: bool = False
    bed: str = "streams"

    @property
    def schedule(self) -> DigitsSchedule:
        """The model's shape and its training: those of the digits testbed with all of its tasks."""
        return schedule_for(tiny=self.tiny, tasks=0 if self.conv else len(DEFAULT_TASKS))

    def digest(self) -> str:
        """A hash of the settings, the schedule and the version of the recipe."""
        schedule = asdict(self.schedule)
        whole = {"version": RECIPE_VERSION, **asdict(self), "schedule": schedule, "tasks": list(DEFAULT_TASKS)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains the base, writes the streams and returns the manifest."""
        with progress.bar("loading torch"):
            import torch

            from genepool.testbed import training  # noqa: F401  (these are the seconds the bar is for)
        # Constructors draw from torch's global generator; the caller gets it back as it was.
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            return _StreamsBuild(self, pieces).run()


class _StreamsBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: StreamsSettings, pieces: Pieces) -> None:
        from genepool.tasks.models.digits import CLASSES
        from genepool.testbed.digits.images import load_images
        from genepool.testbed.streams.folders import FEW_STREAMS, STREAMS, UNKNOWN

        self.settings, self.pieces, self.schedule = settings, pieces, settings.schedule
        self.images = load_images()
        self.unknown = UNKNOWN if settings.open_set else ()
        self.known = [digit for digit in range(CLASSES) if digit not in self.unknown]
        self.streams = FEW_STREAMS if settings.open_set or settings.conv else STREAMS

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        with progress.bar("building the streams testbed", self.schedule.base.steps, "steps") as bar:
            bar.note("tasks and streams")
            self._write_task()
            self._write_streams()
            bar.note("base")
            self._base(bar)
        return self._manifest(self.pieces.collect(["base"]))

    def _write_task(self) -> None:
        from genepool.testbed.digits.images import write_items
        from genepool.testbed.digits.rearranging import AS_IT_IS

        target = self.pieces.staging / "tasks" / AS_IT_IS.name
        if target.exists():
            return
        with staged_folder(target) as unfinished:
            for split in SPLITS:
                write_items(unfinished / f"{split}.jsonl", AS_IT_IS, split, self.images[split])
            (unfinished / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n", encoding="utf-8")

    def _write_streams(self) -> None:
        from genepool.testbed.streams.folders import write_stream

        for one in self.streams:
            target = self.pieces.staging / "streams" / one.name
            if not target.exists():
                with staged_folder(target) as unfinished:
                    test, train = self.images["test"], self.images["train"]
                    shown = self._shown()
                    write_stream(unfinished, one, test, train, self.settings.seed, self.unknown, *shown)

    def _base(self, bar: progress.Bar) -> None:
        """Trains the base as that of the digits testbed and publishes it, unless a killed build had finished it."""
        if self.pieces.finished("base"):
            bar.advance(self.schedule.base.steps)
            return
        from genepool.testbed.digits.builder import train
        from genepool.testbed.digits.images import TrainingImages

        model, save = self._untrained()
        tasks = () if self.settings.conv else tuple(TASKS[name] for name in DEFAULT_TASKS)
        lessons = TrainingImages(tasks, self.settings.seed, self.known)
        train(model, lessons.base_batch, self.schedule.base, bar.advance)
        scores = {name: round(score, 4) for name, score in self._scores(model).items()}
        record = {"steps": self.schedule.base.steps, "scored_items": len(self.images["test"].digits), "scores": scores}
        self.pieces.publish("base", record, save)

    def _untrained(self) -> tuple[nn.Module, Callable[[Path], None]]:
        """The base before its training, and what writes it into a folder."""
        schedule, settings = self.schedule, self.settings
        if settings.conv:
            from genepool.testbed.streams.conv import ConvDigits

            conv = ConvDigits(settings.seed, tiny=settings.tiny)
            return conv, conv.save
        from safetensors.torch import save_file

        from genepool.tasks.models.digits.network import Shape
        from genepool.testbed.digits.model import new_base

        model = new_base(Shape(schedule.hidden, schedule.layers, schedule.heads, schedule.feed_forward), settings.seed)

        def save(place: Path) -> None:
            save_file(model.state_dict(), place / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(model.shape.config(), indent=2, sort_keys=True)
            (place / "config.json").write_text(text + "\n", encoding="utf-8")

        return model, save

    def _shown(self) -> tuple[Any, ...]:
        """How an image is written into a stream, and its shape; nothing where 64 numbers do."""
        if not self.settings.conv:
            return ()
        from genepool.testbed.streams.conv import SHAPE, enlarged

        return enlarged, SHAPE

    def _scores(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on clean digits and under every corruption, of the digits that it was shown."""
        import numpy as np
        import torch

        from genepool.tasks.models.digits import WHITE
        from genepool.testbed.streams.corruptions import CORRUPTIONS, corrupted
        from genepool.testbed.streams.stream_folder import SEVERITY

        test = self.images["test"]
        shown = [at for at, digit in enumerate(test.digits) if digit in self.known]
        pixels = np.array(test.pixels, dtype=np.float64) / WHITE
        spoilt = {
            name: np.stack([corrupted(pixels[at], name, SEVERITY, self.settings.seed, at) for at in shown])
            for name in CORRUPTIONS
        }
        digits = torch.tensor([test.digits[at] for at in shown])
        with torch.inference_mode():
            return {
                name: float((model(torch.tensor(rows, dtype=torch.float32)).argmax(-1) == digits).float().mean())
                for name, rows in {"generic": pixels[shown], **spoilt}.items()
            }

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": []},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch", "scikit-learn")},
            },
            "skills": {},
            "streams": {one.name: {"order": one.order, "severities": list(one.severities)} for one in self.streams},
            "tasks": {"generic": {split: len(self.images[split].digits) for split in SPLITS}},
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }
