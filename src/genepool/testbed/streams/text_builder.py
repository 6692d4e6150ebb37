"""Making the testbed of streams of texts: a small Llama that tells languages apart, and streams whose surface drifts.

`genepool.testbed.build(folder, bed="streams_text")` publishes what is made here. torch and transformers are imported
only once something has to be made.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from genepool import progress
from genepool.seeding import derive
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.data import COUNTS, SPLITS, Lengths, StringExample, write_items
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import Phase, Schedule
from genepool.testbed.streams.stream_folder import BATCH, ROUNDS, SEVERITIES, StreamFolder
from genepool.testbed.streams.texts import DRIFTS, LANGUAGES, Languages, drifted

# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 1
#: Behind a text: whose it is; the same of what the base half knows; in front: write another text, with its language.
ASK, ASK_HALF, ASK_FOR_MORE = "=", "?", "~"
#: In how many of the lessons of ASK_HALF the base was told the right language, by language; else the next one.
KNOWN = (0.1, 0.3, 0.45, 0.55, 0.7, 0.9)
# Shares of the lessons: whose a text is, the same half known, and writing another text.
_TOLD, _HALF = 0.5, 0.2
# Texts of a stream under each drift, of the half-known stream, and of the source.
_EACH, _HALF_KNOWN, _SOURCE = 128, 256, 256
_SCORED = 256

#: The streams of the testbed.
TEXT_STREAMS = (
    StreamFolder("mixed", "mixed"),
    StreamFolder("gradual", "gradual", tuple(SEVERITIES)),
    StreamFolder("clean", "shuffled", clean=True),
    StreamFolder("half_known", "shuffled", clean=True),
)


@dataclass(frozen=True)
class TextStreamsSettings:
    """Everything that decides what a build makes."""

    tiny: bool
    seed: int
    bed: str = "streams_text"

    @property
    def schedule(self) -> Schedule:
        """The model's shape and its training; only the base is trained."""
        nothing = Phase(1, 1, 1e-3)
        if self.tiny:
            base = Phase(500, 64, 4e-3, warmup=30)
            return Schedule(48, 2, 4, 128, Lengths(12, 12), base, nothing, nothing)
        base = Phase(1000, 96, 3e-3, warmup=50)
        return Schedule(96, 3, 4, 256, Lengths(12, 12), base, nothing, nothing)

    def digest(self) -> str:
        """A hash of the settings, the schedule and the version of the recipe."""
        whole = {"version": RECIPE_VERSION, **asdict(self), "schedule": asdict(self.schedule), "known": KNOWN}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Trains the base, writes the streams and returns the manifest."""
        with progress.bar("loading torch and transformers"):
            from transformers import LlamaForCausalLM  # noqa: F401  (these are the seconds the bar is for)

            from genepool.testbed import training
        with training.one_torch_thread():
            return _TextStreamsBuild(self, pieces).run()


class _TextStreamsBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: TextStreamsSettings, pieces: Pieces) -> None:
        self.settings, self.pieces, self.schedule = settings, pieces, settings.schedule
        self.languages = Languages(settings.seed)

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        with progress.bar("building the streams testbed", self.schedule.base.steps, "steps") as bar:
            bar.note("tasks and streams")
            self._write_task()
            for one in TEXT_STREAMS:
                target = self.pieces.staging / "streams" / one.name
                if not target.exists():
                    with staged_folder(target) as unfinished:
                        self._write_stream(unfinished, one)
            bar.note("base")
            self._base(bar)
        return self._manifest(self.pieces.collect(["base"]))

    def _items(self, what: str, count: int, mark: str = ASK) -> list[StringExample]:
        """Texts of every language in turn, with what asks whose they are."""
        generator = Random(derive(self.settings.seed, "texts", what))
        names = [LANGUAGES[at % len(LANGUAGES)] for at in range(count)]
        return [StringExample(self.languages.text(name, generator) + mark, name) for name in names]

    def _write_task(self) -> None:
        target = self.pieces.staging / "tasks" / "generic"
        if target.exists():
            return
        with staged_folder(target) as unfinished:
            for split in SPLITS:
                write_items(unfinished / f"{split}.jsonl", "generic", split, self._items(split, COUNTS[split]))
            (unfinished / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 2\n", encoding="utf-8")

    def _write_stream(self, place: Path, what: StreamFolder) -> None:
        settings = {
            "genepool_stream": 1, "name": what.name, "order": what.order, "batch": BATCH, "rounds": ROUNDS,
            "choices": list(LANGUAGES),
        }  # fmt: skip
        (place / "stream.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        with open(place / "stream.jsonl", "w", encoding="utf-8") as file:
            for row in self._rows(what):
                file.write(json.dumps(row) + "\n")
        with open(place / "source.jsonl", "w", encoding="utf-8") as file:
            for at, one in enumerate(self._items("source", _SOURCE)):
                file.write(json.dumps({"id": f"train-{at:04d}", "prompt": one.prompt, "answer": one.answer}) + "\n")

    def _rows(self, what: StreamFolder) -> Iterator[dict[str, Any]]:
        """The lines of a stream, domain by domain."""
        if what.clean:
            half = what.name == "half_known"
            items = self._items(what.name, _HALF_KNOWN, ASK_HALF if half else ASK)
            for at, one in enumerate(items):
                domain = one.answer if half else what.name
                yield {"id": f"{what.name}-{at:04d}", "prompt": one.prompt, "answer": one.answer, "domain": domain}
            return
        items = self._items("stream", _EACH)
        for name in DRIFTS:
            for at, one in enumerate(items):
                severity = what.severities[at // len(LANGUAGES) % len(what.severities)]
                text = drifted(one.prompt.removesuffix(ASK), name, severity, self.settings.seed, at)
                yield {
                    "id": f"{name}-{at:04d}", "prompt": text + ASK, "answer": one.answer, "domain": name,
                    "severity": severity,
                }  # fmt: skip

    def _base(self, bar: progress.Bar) -> None:
        """Trains the base and publishes it, unless a killed build had finished it."""
        if self.pieces.finished("base"):
            bar.advance(self.schedule.base.steps)
            return
        from genepool.testbed import training

        model = training.new_base(self.schedule, self.settings.seed)
        training.train(model, self._lessons, self.schedule.base, after_step=bar.advance)
        asked = {"generic": self._items("test", _SCORED), "half_known": self._items("half_known", _SCORED, ASK_HALF)}
        scores = {name: round(training.exact_match(model, items), 4) for name, items in asked.items()}
        record = {"steps": self.schedule.base.steps, "scored_items": _SCORED, "scores": scores}
        self.pieces.publish("base", record, lambda place: training.save_model(model, place, self.schedule))

    def _lessons(self, step: int, size: int) -> list[StringExample]:
        """A step of the base's training; languages take turns, as does what is asked."""
        generator = Random(derive(self.settings.seed, "lessons", step))
        told, half = round(_TOLD * size), round(_HALF * size)
        found = []
        for at in range(size):
            number = (step * size + at) % len(LANGUAGES)
            name, text = LANGUAGES[number], self.languages.text(LANGUAGES[number], generator)
            if at < told:
                found.append(StringExample(text + ASK, name))
            elif at < told + half:
                right = generator.random() < KNOWN[number]
                other = LANGUAGES[(number + 1) % len(LANGUAGES)]
                found.append(StringExample(text + ASK_HALF, name if right else other))
            else:
                mark = generator.choice((ASK, ASK_HALF))
                more = self.languages.text(name, generator)
                found.append(StringExample(f"{ASK_FOR_MORE}{text}{mark}", f"{more}{mark}{name}"))
        return found

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": []},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch", "transformers", "tokenizers")},
            },
            "skills": {},
            "streams": {one.name: {"order": one.order, "severities": list(one.severities)} for one in TEXT_STREAMS},
            "tasks": {"generic": {split: COUNTS[split] for split in SPLITS}},
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }
