"""A stream in a folder: `stream.json` says what it is, `stream.jsonl` holds the examples, one a line.

Written by anybody, so every value is checked where it enters; the format is docs/reference/stream.md. Knows nothing of
models: `reading` makes inputs of the examples, `orders` says in which order they come, `series` cuts windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from genepool.adaptation.named_files import content_digest, file_digest
from genepool.adaptation.series import SeriesLine, checked_lines, windows_of, written
from genepool.adaptation.stream_lines import StreamExample, examples_of, labelled, lines_of
from genepool.bounded import read_text
from genepool.checked import is_line, is_whole, kind_of, parsed_json
from genepool.errors import InputError, refuse_newer
from genepool.schema import Strict, validate

STREAM_FILE, EXAMPLES_FILE, LABELS_FILE, SOURCE_FILE = "stream.json", "stream.jsonl", "labels.jsonl", "source.jsonl"
FORMAT = 1
Order = Literal["file", "shuffled", "correlated", "gradual", "reset", "mixed"]
ORDERS: tuple[Order, ...] = get_args(Order)
# Of all that is counted.
_MOST = 100_000
# Of answers to choose among: each is read for each example.
_MOST_CHOICES = 1000


class StreamSettings(Strict):
    """What `stream.json` says."""

    page = "reference/stream"

    genepool_stream: int = Field(description="The version of the format: 1.")
    name: str = Field("", description="What the stream is called; its folder's name when empty.")
    order: Order = Field(
        "file", description="In which order the examples come, unless `--order` says another; see below."
    )
    batch: int = Field(64, ge=1, le=_MOST, description="Examples that are predicted together.")
    rounds: int = Field(15, ge=1, le=_MOST, description="How often the stream is gone through, unless `--rounds` is.")
    shape: list[int] | None = Field(None, description="The shape of every `input`; that of the first one when null.")
    choices: list[str] = Field(
        default_factory=list,
        description="The answers that a causal language model chooses among; none for other models.",
    )
    lookback: int | None = Field(
        None, ge=1, le=_MOST, description="Of a series: steps of the past that a model reads; see below."
    )
    horizon: int | None = Field(None, ge=1, le=_MOST, description="Of a series: steps that a model forecasts.")
    stride: int = Field(1, ge=1, le=_MOST, description="Of a series: steps from one window to the next.")


@dataclass(frozen=True)
class Stream:
    """A stream in memory.

    Attributes:
        name: what it is called.
        examples: in the order of the file.
        order: in which they come by default.
        batch: examples of a batch.
        rounds: how often it is gone through by default.
        shape: of an input; empty where the inputs are prompts.
        source: examples of what the model was trained on; empty where there are none.
        choices: answers that a language model chooses among; empty for models with classes of their own.
        where: its file of examples, for errors.
        folder: where it lies, which files of images are named from; None for one that was made in memory.
        horizon: of a series, steps that follow a window; 0 for other streams.
    """

    name: str
    examples: tuple[StreamExample, ...]
    order: Order = "file"
    batch: int = 64
    rounds: int = 15
    shape: tuple[int, ...] = ()
    source: tuple[StreamExample, ...] = ()
    choices: tuple[str, ...] = ()
    where: str = field(default="the stream", compare=False)
    folder: Path | None = field(default=None, compare=False)
    horizon: int = 0

    @classmethod
    def of(
        cls,
        inputs: Sequence[Any],
        answers: Sequence[str | None] | None = None,
        domains: Sequence[str] | None = None,
        *,
        name: str = "stream",
        batch: int = 64,
        rounds: int = 1,
        choices: Sequence[str] = (),
    ) -> Stream:
        """A stream of what is in memory, in this order.

        Args:
            inputs: prompts, files of images as paths, or arrays of numbers that are shaped alike.
            answers: the right class of each, None where it never comes; nobody's when None.
            domains: where each is from.
            name, batch, rounds, choices: as above.

        Raises:
            InputError: there are none, their shapes differ, a value is no number, the choices are no answers, or there
                are not as many answers or domains as inputs.
        """
        _check_given(name, inputs, {"answers": answers, "domains": domains}, {"batch": batch, "rounds": rounds})
        answers = [None] * len(inputs) if answers is None else answers
        domains = [""] * len(inputs) if domains is None else domains
        rows: list[dict[str, Any]] = []
        for at, (value, answer, domain) in enumerate(zip(inputs, answers, domains, strict=True)):
            given = {"prompt": value} if isinstance(value, str | Path) else {"input": _listed(value)}
            given = {key: str(one) if isinstance(one, Path) else one for key, one in given.items()}
            rows.append({"id": str(at), **given, "answer": answer, "domain": domain})
        examples, shape = examples_of([(f"{name}:{at}", row) for at, row in enumerate(rows)], name, None)
        examples = tuple(
            replace(one, image=file_digest(value)) if isinstance(value, Path) else one
            for one, value in zip(examples, inputs, strict=True)
        )
        return cls(name, examples, "file", batch, rounds, shape, (), _choices(list(choices), name), name)

    @classmethod
    def of_series(
        cls, values: Sequence[Sequence[float]], lookback: int, horizon: int, *, stride: int = 1,
        domains: Sequence[str] | None = None, name: str = "series", batch: int = 64,
    ) -> Stream:  # fmt: skip
        """A stream of the windows of a series in memory.

        Args:
            values: of every step, in the order of time, one for each variable.
            lookback: steps of the past in a window.
            horizon: steps that follow it.
            stride: steps from one window to the next.
            domains: where each step is from.
            name, batch: as above.

        Raises:
            InputError: a value is no number, steps have unlike many, or there are too few.
        """
        whole = {"batch": batch, "lookback": lookback, "horizon": horizon, "stride": stride}
        _check_given(name, values, {"domains": domains}, whole)
        domains = [""] * len(values) if domains is None else domains
        rows = [
            (f"{name}:{at}", {"id": str(at), "input": _listed(step), "domain": domain})
            for at, (step, domain) in enumerate(zip(values, domains, strict=True))
        ]
        lines, shape = examples_of(rows, name, None)
        examples = _windows(lines, shape, (lookback, horizon, stride), name)
        return cls(name, examples, "file", batch, 1, (lookback, *shape), (), (), name, horizon=horizon)

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, of the examples and their order in the file, of the source, the choices and what a batch is.

        A prompt that names a file within the folder counts as what is in the file, whatever the file is called.
        """
        # What was there before choices and series comes to what it did.
        more = [*([self.choices] if self.choices else []), *([self.horizon] if self.horizon else [])]
        total = hashlib.sha256(json.dumps([FORMAT, self.order, self.batch, self.shape, *more]).encode())
        for part in (self.examples, self.source):
            total.update(b"\x1e")
            for one in part:
                image = one.image or content_digest(self.folder, one.prompt)
                shown = {"image": image} if image else one.prompt
                plain = [one.key, shown, one.numbers, one.answer, one.domain, one.severity, one.known]
                plain += [one.end] if self.horizon else []
                total.update(json.dumps(plain).encode() + b"\x1f")
        return total.hexdigest()

    @property
    def source_where(self) -> str:
        """The file of the source examples, for errors."""
        return self.where if self.folder is None else str(self.folder / SOURCE_FILE)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains, in the order in which they first come in the file."""
        return tuple(dict.fromkeys(one.domain for one in self.examples))


def is_stream(path: str | Path) -> bool:
    """Whether a path is the folder of a stream."""
    return (Path(path) / STREAM_FILE).is_file()


def load_stream(folder: str | Path) -> Stream:
    """The stream in a folder.

    Raises:
        InputError: a file is missing, or a value in it is wrong; file, line and key are named.
    """
    folder = Path(folder)
    file = folder / STREAM_FILE
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, fix="Name the folder of a stream")
    if not file.exists():
        raise InputError(
            f"holds no {STREAM_FILE}", where=folder, fix="Name the folder of a stream; docs/reference/stream.md"
        )
    settings = _settings(file)
    shape = None if settings.shape is None else tuple(settings.shape)
    path = folder / EXAMPLES_FILE
    examples, shape = examples_of(lines_of(path), str(path), shape)
    if settings.lookback is not None:
        return _series(settings, examples, shape, folder)
    if (folder / LABELS_FILE).exists():
        examples = labelled(examples, folder / LABELS_FILE)
    source: tuple[StreamExample, ...] = ()
    if (folder / SOURCE_FILE).exists():
        source, _ = examples_of(lines_of(folder / SOURCE_FILE), str(folder / SOURCE_FILE), shape or None)
        if (missing := next((one for one in source if one.answer is None), None)) is not None:
            raise InputError(
                "a source example has no `answer`", where=f"{folder / SOURCE_FILE}:{missing.key}", fix="Give its class"
            )
        if (examples[0].prompt is None) != (source[0].prompt is None):
            raise InputError(f"has other keys than {EXAMPLES_FILE}", where=folder / SOURCE_FILE, fix="Write both alike")
    name = settings.name or folder.resolve().name
    choices = _choices(settings.choices, f"{file}:choices")
    return Stream(
        name, examples, settings.order, settings.batch, settings.rounds, shape, source, choices, str(path), folder
    )


def _series(settings: StreamSettings, lines: tuple[StreamExample, ...], shape: tuple[int, ...], folder: Path) -> Stream:
    """The stream of a series in a folder.

    Raises:
        InputError: a file or a key says what a series has not, or it is too short.
    """
    assert settings.lookback is not None
    assert settings.horizon is not None
    path, source_path = folder / EXAMPLES_FILE, folder / SOURCE_FILE
    if (folder / LABELS_FILE).exists():
        raise InputError("a series brings its own labels", where=folder / LABELS_FILE, fix="Remove the file")
    if settings.order != "file":
        raise InputError(
            f"a series comes in the order of time, got {settings.order}",
            where=f"{folder / STREAM_FILE}:order",
            fix="Write file, or leave it out",
        )
    if "rounds" in settings.model_fields_set and settings.rounds != 1:
        raise InputError(
            f"a series is gone through once, got {settings.rounds}",
            where=f"{folder / STREAM_FILE}:rounds",
            fix="Write 1, or leave it out: a second round would be scored on what was learned in the first",
        )
    if settings.choices:
        raise InputError("a series has no choices", where=f"{folder / STREAM_FILE}:choices", fix="Leave them out")
    cut = (settings.lookback, settings.horizon, settings.stride)
    examples = _windows(lines, shape, cut, str(path))
    source: tuple[StreamExample, ...] = ()
    if source_path.exists():
        before, _ = examples_of(lines_of(source_path), str(source_path), shape)
        source = _windows(before, shape, cut, str(source_path))
    name, whole = settings.name or folder.resolve().name, (settings.lookback, *shape)
    return Stream(name, examples, "file", settings.batch, 1, whole, source, (), str(path), folder, settings.horizon)


def _windows(
    lines: tuple[StreamExample, ...], shape: tuple[int, ...], cut: tuple[int, int, int], where: str
) -> tuple[StreamExample, ...]:
    """The windows of a series whose steps were read as examples; `cut` is lookback, horizon and stride."""
    checked_lines(lines, shape, where)
    steps = [SeriesLine(one.key, one.numbers, one.domain) for one in lines]
    return tuple(
        StreamExample(one.key, None, one.past, written(one.future), one.domain, future=one.future, end=one.end)
        for one in windows_of(steps, *cut, where)
    )


def _settings(file: Path) -> StreamSettings:
    try:
        plain = parsed_json(read_text(file, fix="Write it as JSON"), unique=True)
    except ValueError as error:
        raise InputError(f"cannot be read ({error})", where=file, fix='Write {"genepool_stream": 1}') from None
    if not isinstance(plain, dict):
        raise InputError(f"holds {kind_of(plain)}", where=file, fix='Write {"genepool_stream": 1}')
    else:
        refuse_newer("stream", plain.get("genepool_stream"), FORMAT, f"{file}:genepool_stream")
    settings = validate(StreamSettings, plain, file)
    if settings.genepool_stream != FORMAT:
        raise InputError(
            f"got {settings.genepool_stream}, expected {FORMAT}", where=f"{file}:genepool_stream", fix="Write 1"
        )
    if not is_line(settings.name, 200):
        raise InputError("is not a name of one line", where=f"{file}:name", fix="Shorten it")
    if (settings.lookback is None) != (settings.horizon is None):
        missing = "horizon" if settings.horizon is None else "lookback"
        raise InputError(
            "is missing for a series", where=f"{file}:{missing}", fix="Write both `lookback` and `horizon`"
        )
    if settings.shape is not None and not (settings.shape and all(is_whole(one, 1, 10**6) for one in settings.shape)):
        raise InputError("is not a shape", where=f"{file}:shape", fix="Write lengths, such as [3, 32, 32]")
    return settings


def _choices(given: list[str], where: str) -> tuple[str, ...]:
    """The answers that a language model chooses among, checked.

    Raises:
        InputError: there is only one, one is no line of text, or one stands twice.
    """
    if given and (len(given) < 2 or len(given) > _MOST_CHOICES):
        raise InputError(f"got {len(given)}, expected from 2 to {_MOST_CHOICES}", where=where, fix="Name all answers")
    for at, one in enumerate(given):
        if not is_line(one, 1000) or not one.strip():
            raise InputError(f"got {one!r:.60} for an answer", where=where, fix="Write lines of text")
        if one in given[:at]:
            raise InputError(f"names {one!r:.60} twice", where=where, fix="Leave one of them out")
    return tuple(given)


def _check_given(name: str, inputs: Any, beside: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Refuses what is no sequence, or not as long as the inputs, and what is no count."""
    for what, one in {"inputs": inputs, **beside}.items():
        if one is None and what != "inputs":
            continue
        if isinstance(one, str) or not hasattr(one, "__len__"):
            raise InputError(f"got {kind_of(one)} for {what}, expected a list", where=name)
        if len(one) != len(inputs):
            raise InputError(f"got {len(one):,} {what} for {len(inputs):,} inputs", where=name, fix="Give one for each")
    for what, count in counts.items():
        if not is_whole(count, 1, _MOST):
            raise InputError(f"got {count!r:.40} for {what}, expected a whole number from 1 to {_MOST:,}", where=name)


def _listed(value: Any) -> Any:
    """Arrays and tensors as lists."""
    return value.tolist() if hasattr(value, "tolist") else value
