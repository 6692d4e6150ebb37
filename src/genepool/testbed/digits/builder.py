"""Making the digits testbed: a base that half holds every task, and a specialist for each, as ordinary checkpoints.

`genepool.testbed.build(folder, bed="digits")` publishes what is made here. Wires `images`, `model` and `training`, all
imported only once something has to be trained.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import progress
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.data import SPLITS, Split
from genepool.testbed.digits.rearranging import AS_IT_IS, DEFAULT_TASKS, TASKS, choose
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Phase
from genepool.testbed.settings import BedSettings
from genepool.threads import torch_threads

if TYPE_CHECKING:
    from torch import nn

    from genepool.tasks.models.digits.network import DigitsTransformer
    from genepool.testbed.digits.images import Batches, Images

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class DigitsSchedule:
    """Every number of a build: the model's shape and both trainings."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    base: Phase
    full: Phase


def schedule_for(*, tiny: bool, tasks: int) -> DigitsSchedule:
    """The schedule for a number of tasks; the base's steps are shared out among them, so fewer tasks need fewer."""
    # Of what all eight need, a third is for seeing digits at all.
    room = (4 + tasks) / 12
    if tiny:
        return DigitsSchedule(
            32, 2, 4, 64, base=Phase(round(700 * room), 96, 4e-3, warmup=30), full=Phase(60, 48, 1.5e-3, replay=0.3)
        )
    return DigitsSchedule(
        64, 4, 4, 128, base=Phase(round(1600 * room), 128, 2e-3, warmup=50), full=Phase(60, 64, 7e-4, replay=0.3)
    )


@dataclass(frozen=True)
class DigitsSettings(BedSettings):
    """Everything that decides what a build makes."""

    bed: str = "digits"
    version: ClassVar[int] = RECIPE_VERSION

    @classmethod
    def of(cls, tiny: bool, seed: int, skills: Sequence[str] | None) -> DigitsSettings:
        """Checked; all eight tasks when `skills` is None."""
        return cls(tiny, seed, tuple(task.name for task in choose(DEFAULT_TASKS if skills is None else skills)))

    @property
    def schedule(self) -> DigitsSchedule:
        """Steps and batches of every part of the build."""
        return schedule_for(tiny=self.tiny, tasks=len(self.skills))

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains everything and returns the manifest."""
        with progress.bar("loading torch"):
            import torch

            from genepool.testbed import training  # noqa: F401  (these are the seconds the bar is for)
        # Constructors draw from torch's global generator; the caller gets it back as it was.
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            return _DigitsBuild(self, pieces).run()


class _DigitsBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: DigitsSettings, pieces: Pieces) -> None:
        from genepool.testbed.digits.images import TrainingImages, load_images

        self.settings, self.pieces, self.schedule = settings, pieces, settings.schedule
        self.tasks = tuple(TASKS[name] for name in settings.skills)
        self.images: dict[Split, Images] = load_images()
        self.lessons = TrainingImages(self.tasks, settings.seed)

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        steps = self.schedule.base.steps + len(self.tasks) * self.schedule.full.steps
        with progress.bar("building the digits testbed", steps, "steps") as bar:
            bar.note("task files")
            self._write_tasks()
            bar.note("base")
            base = self._base(bar)
            bar.note("specialists")
            for task in self.tasks:
                batches = self.lessons.specialist_batches(task.name, self.schedule.full.replay)
                self._trained(f"full/{task.name}", copy.deepcopy(base), batches, self.schedule.full, bar)
        return self._manifest(self.pieces.collect(["base", *(f"full/{task.name}" for task in self.tasks)]))

    def _write_tasks(self) -> None:
        from genepool.testbed.digits.images import write_items

        for task in (*self.tasks, AS_IT_IS):
            target = self.pieces.staging / "tasks" / task.name
            if target.exists():
                continue
            with staged_folder(target) as unfinished:
                for split in SPLITS:
                    write_items(unfinished / f"{split}.jsonl", task, split, self.images[split])
                (unfinished / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n", encoding="utf-8")

    def _base(self, bar: progress.Bar) -> DigitsTransformer:
        from genepool.tasks.models.digits.network import Shape
        from genepool.testbed.digits.model import new_base

        shape = Shape(self.schedule.hidden, self.schedule.layers, self.schedule.heads, self.schedule.feed_forward)
        model = new_base(shape, self.settings.seed)
        return self._trained("base", model, self.lessons.base_batch, self.schedule.base, bar)

    def _trained(
        self, name: str, model: DigitsTransformer, batches: Batches, phase: Phase, bar: progress.Bar
    ) -> DigitsTransformer:
        """Trains the model and publishes it, or reads it back when a killed build had finished it."""
        if self.pieces.finished(name):
            from safetensors.torch import load_file

            model.load_state_dict(load_file(self.pieces.staging / name / "model.safetensors"))
            bar.advance(phase.steps)
            return model
        train(model, batches, phase, bar.advance)
        scores = {task.name: round(self._score(model, task.name), 4) for task in (*self.tasks, AS_IT_IS)}
        record = {"steps": phase.steps, "scored_items": len(self.images["test"].digits), "scores": scores}

        def save(place: Path) -> None:
            from safetensors.torch import save_file

            save_file(model.state_dict(), place / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(model.shape.config(), indent=2, sort_keys=True)
            (place / "config.json").write_text(text + "\n", encoding="utf-8")

        self.pieces.publish(name, record, save)
        return model

    def _score(self, model: DigitsTransformer, name: str) -> float:
        import torch

        from genepool.tasks.models.digits import WHITE

        task, images = TASKS.get(name, AS_IT_IS), self.images["test"]
        pixels = torch.tensor([task.apply(row) for row in images.pixels], dtype=torch.float32) / WHITE
        with torch.inference_mode():
            return float((model(pixels).argmax(-1) == torch.tensor(images.digits)).float().mean())

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": list(self.settings.skills)},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch", "scikit-learn")},
            },
            "skills": {task.name: {"does": task.does, "misreading": task.misreading} for task in self.tasks},
            "tasks": {
                task.name: {split: len(self.images[split].digits) for split in SPLITS}
                for task in (*self.tasks, AS_IT_IS)
            },
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }


def train(model: nn.Module, batches: Batches, phase: Phase, after_step: Callable[[], None]) -> None:
    """Trains all parameters of `model` in place, to read the digits of `batches`; `after_step` is called after each."""
    import torch
    from torch.nn import functional

    from genepool.testbed.training import optimise

    parameters = list(model.parameters())

    def gradients(step: int) -> tuple[torch.Tensor, ...]:
        pixels, digits = batches(step, phase.batch)
        return torch.autograd.grad(functional.cross_entropy(model(pixels), digits), parameters)

    model.train()
    optimise(parameters, gradients, phase, after_step)
    model.eval()
