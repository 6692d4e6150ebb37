"""The testbed of strings: a small Llama and a specialist for each skill, by full fine-tuning and as an adapter.

Made out of `data`, `training` and `skills` of the testbed. Torch is imported only once something has to be trained.
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.staging import staged_folder
from genepool.testbed import data
from genepool.testbed import folder as layout
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Phase, Schedule, schedule_for
from genepool.testbed.skills import DEFAULT_SKILLS, SKILLS, StringTask, choose

if TYPE_CHECKING:
    from genepool.testbed import training

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 1
_SCORED_ITEMS = 256


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides what a build makes."""

    regime: str
    tiny: bool
    seed: int
    skills: tuple[str, ...]

    @property
    def schedule(self) -> Schedule:
        """Steps and batches of every part of the build."""
        return schedule_for(self.regime, tiny=self.tiny, skills=len(self.skills))

    def digest(self) -> str:
        """A hash of the settings, the schedule and the version of the recipe."""
        whole = {"version": RECIPE_VERSION, **asdict(self), "schedule": asdict(self.schedule), "counts": data.COUNTS}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains everything in two threads and returns the manifest."""
        with two_workers() as pool:
            build = StringsBuild(self, pieces, out, pool)
            build.run()
            return build.manifest(pieces.collect(build.model_names()))


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> BuildSettings:
    """See `genepool.testbed.beds`."""
    names = DEFAULT_SKILLS if skills is None else skills
    return BuildSettings(regime, tiny, seed, tuple(skill.name for skill in choose(names)))


@contextmanager
def two_workers() -> Iterator[ThreadPoolExecutor]:
    """Threads to train in, with everything heavy imported and torch set to one thread an operation."""
    with progress.bar("loading torch and transformers"):
        # All that training touches, named here because these are the seconds the bar is for.
        from peft import LoraConfig  # noqa: F401
        from transformers import LlamaForCausalLM  # noqa: F401

        from genepool.testbed import training
    with training.one_torch_thread():
        pool = ThreadPoolExecutor(2)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Raised inside a training thread when the build has failed or was interrupted elsewhere."""


class StringsBuild:
    """One run: knows what is finished in the staging folder and makes the rest.

    Args:
        settings: what is built.
        pieces: what is finished.
        out: where the folder will be.
        pool: two threads.
        schedule: of the models; that of the settings when None.
        place: the models' folder inside the testbed, ending in a slash; the testbed itself when empty.
        kinds: of specialists, the longer ones first, so that both threads end together.
        mixture: what the models are trained on; that of the settings, with tags, when None.
        more_tasks: skills that are asked for in turn, by the name of their task, beside each skill and `generic`.
    """

    def __init__(
        self,
        settings: BuildSettings,
        pieces: Pieces,
        out: Path,
        pool: ThreadPoolExecutor,
        *,
        schedule: Schedule | None = None,
        place: str = "",
        kinds: tuple[str, ...] = ("lora", "full"),
        mixture: data.Mixture | None = None,
        more_tasks: Mapping[str, Sequence[StringTask]] | None = None,
    ) -> None:
        from genepool.testbed import training

        self.training = training
        self.settings, self.pieces, self.out, self.pool = settings, pieces, out, pool
        self.staging, self.place, self.kinds = pieces.staging, place, kinds
        self.schedule = schedule or settings.schedule
        self.skills = tuple(SKILLS[name] for name in settings.skills)
        self.mixture = mixture or data.Mixture(
            self.skills, self.schedule.lengths, settings.seed, teach_base=settings.regime == "elicit"
        )
        self.asked: dict[str, Sequence[StringTask]] = {
            **{skill.name: [skill] for skill in self.skills},
            **(more_tasks or {}),
            data.GENERIC: [],
        }
        self.items: dict[str, dict[data.Split, list[data.StringExample]]] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        """Makes all pieces."""
        phases = [self.schedule.base] + [getattr(self.schedule, kind) for kind in self.kinds] * len(self.skills)
        with progress.bar("building the testbed", sum(phase.steps for phase in phases), "steps") as bar:
            bar.note("task files")
            self._write_tasks()
            bar.note("base")
            base = self._base(bar)
            bar.note("specialists")
            jobs = [
                self.pool.submit(self._specialist, kind, skill, base, bar)
                for kind in self.kinds
                for skill in self.skills
            ]
            try:
                for job in as_completed(jobs):
                    job.result()
            finally:
                self.stop.set()

    def model_names(self) -> list[str]:
        """The models' folders inside the testbed, the base first."""
        kinds = sorted(self.kinds)
        return [f"{self.place}{name}" for name in ("base", *(f"{k}/{s}" for k in kinds for s in self.settings.skills))]

    def _write_tasks(self) -> None:
        """One folder a task: the three splits, and task.yaml with how to ask."""
        seed, lengths, mixture = self.settings.seed, self.schedule.lengths, self.mixture
        for task, skills in self.asked.items():
            self.items[task] = {
                split: data.task_items(task, skills, split, seed, lengths, mixture.prompts, mixture.primitives)
                for split in data.SPLITS
            }
            target = self.staging / "tasks" / task
            if target.exists():
                continue
            with staged_folder(target) as unfinished:
                for split, items in self.items[task].items():
                    data.write_items(unfinished / f"{split}.jsonl", task, split, items)
                longest = max(len(item.answer) for items in self.items[task].values() for item in items)
                text = f"metric: exact_match\nmax_new_tokens: {longest + 1}\n"
                (unfinished / "task.yaml").write_text(text, encoding="utf-8")

    def _base(self, bar: progress.Bar) -> Any:
        name, phase = f"{self.place}base", self.schedule.base
        if self.pieces.finished(name):
            bar.advance(phase.steps)
            return self.training.load_base(self.staging / name)
        model = self.training.new_base(self.schedule, self.settings.seed)
        self._train(model, self.mixture.base_batch, phase, bar, self.pool)
        self._publish(name, model, phase, lambda place: self.training.save_model(model, place, self.schedule))
        return model

    def _specialist(self, kind: str, skill: StringTask, base: Any, bar: progress.Bar) -> None:
        name = f"{self.place}{kind}/{skill.name}"
        phase: Phase = getattr(self.schedule, kind)
        if self.pieces.finished(name):
            bar.advance(phase.steps)
            return
        if kind == "full":
            model = copy.deepcopy(base)
        else:
            model = self.training.with_adapter(base, self.schedule, self.settings.seed, skill.name)
        batches = self.mixture.specialist_batches(skill.name, self.items[skill.name]["train"], phase.replay)
        self._train(model, batches, phase, bar, None)

        def save(place: Path) -> None:
            if kind == "full":
                self.training.save_model(model, place, self.schedule)
            else:
                self.training.save_adapter(model, place, self.out / f"{self.place}base")

        self._publish(name, model, phase, save)

    def _train(
        self, model: Any, batches: training.Batches, phase: Phase, bar: progress.Bar, pool: ThreadPoolExecutor | None
    ) -> None:
        def after_step() -> None:
            if self.stop.is_set():
                raise _Stopped
            bar.advance()

        self.training.train(model, batches, phase, after_step=after_step, pool=pool)

    def _publish(self, name: str, model: Any, phase: Phase, save: Callable[[Path], None]) -> None:
        """Scores the model and leaves it where it belongs."""
        scores = {
            task: round(self.training.exact_match(model, splits["test"][:_SCORED_ITEMS]), 4)
            for task, splits in self.items.items()
        }
        record = {"steps": phase.steps, "scored_items": _SCORED_ITEMS, "scores": scores}
        self.pieces.publish(name, record, save)

    def manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        """The manifest of the finished folder.

        Args:
            models: the records of the models, by name.
        """
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": list(self.settings.skills)},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch", "transformers", "peft", "tokenizers")},
            },
            "skills": {
                skill.name: {"does": skill.does, "tag": skill.tag, "pretraining_tag": skill.pretraining_tag}
                for skill in self.skills
            },
            "primitives": {
                primitive.name: {"does": primitive.does, "pretraining_tag": primitive.pretraining_tag}
                for primitive in self.mixture.primitives
            },
            "tasks": {
                task: {split: len(items) for split, items in splits.items()} for task, splits in self.items.items()
            },
            "models": models,
            "files": layout.hash_files(self.staging),
        }
