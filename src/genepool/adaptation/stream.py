"""A stream in a folder: `stream.json` says what it is, `stream.jsonl` holds the examples, one a line.

Written by anybody, so every value is checked where it enters; the format is docs/reference/stream.md. Knows nothing of
models: `reading` makes inputs of the examples, `orders` says in which order they come, `series` cuts windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from genepool.adaptation.named_files import content_digest, file_digest
from genepool.adaptation.series import SeriesLine, checked_lines, windows_of, written
from genepool.bounded import read_text
from genepool.checked import is_line, is_number, is_text, is_whole, kind_of, parsed_json
from genepool.errors import InputError, nearest, refuse_newer
from genepool.schema import Strict, validate

STREAM_FILE, EXAMPLES_FILE, LABELS_FILE, SOURCE_FILE = "stream.json", "stream.jsonl", "labels.jsonl", "source.jsonl"
FORMAT = 1
Order = Literal["file", "shuffled", "correlated", "gradual", "reset", "mixed"]
ORDERS: tuple[Order, ...] = get_args(Order)
#: Severities of a stream whose order is gradual.
SEVERITIES = range(1, 6)

_KEYS = ("id", "prompt", "input", "answer", "domain", "severity", "known")
_LABEL_KEYS = ("id", "answer")
# Of answers to choose among: each is read for each example.
_MOST_CHOICES = 1000
_FIX = 'Write lines like {"id": "1", "prompt": "...", "answer": "...", "domain": "noise"}'


class StreamSettings(Strict):
    """What `stream.json` says."""

    page = "reference/stream"

    genepool_stream: int = Field(description="The version of the format: 1.")
    name: str = Field("", description="What the stream is called; its folder's name when empty.")
    order: Order = Field(
        "file", description="In which order the examples come, unless `--order` says another; see below."
    )
    batch: int = Field(64, ge=1, le=100_000, description="Examples that are predicted together.")
    rounds: int = Field(15, ge=1, le=100_000, description="How often the stream is gone through, unless `--rounds` is.")
    shape: list[int] | None = Field(None, description="The shape of every `input`; that of the first one when null.")
    choices: list[str] = Field(
        default_factory=list,
        description="The answers that a causal language model chooses among; none for other models.",
    )
    lookback: int | None = Field(
        None, ge=1, le=100_000, description="Of a series: steps of the past that a model reads; see below."
    )
    horizon: int | None = Field(None, ge=1, le=100_000, description="Of a series: steps that a model forecasts.")
    stride: int = Field(1, ge=1, le=100_000, description="Of a series: steps from one window to the next.")


@dataclass(frozen=True)
class StreamExample:
    """One example.

    Attributes:
        key: its id.
        prompt: what a model reads: a text, or the file of an image; None where there are numbers.
        numbers: values of an input, flat; empty where there is a prompt.
        answer: the right class; None where no label ever comes.
        domain: where it is from, such as the name of a corruption.
        severity: from 1 to 5; None where it says none.
        known: whether its class is one that the model can know.
        image: SHA-256 of the image that the prompt names, hex; empty where the stream's folder tells it.
        future: of a series, the flat values that follow the window; empty for other streams.
        end: of a series, the number of the window's last step; -1 for other streams.
    """

    key: str
    prompt: str | None
    numbers: tuple[float, ...]
    answer: str | None
    domain: str = ""
    severity: int | None = None
    known: bool = True
    image: str = ""
    future: tuple[float, ...] = ()
    end: int = -1


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
            InputError: there are none, their shapes differ, a value is no number, or the choices are no answers.
        """
        answers = [None] * len(inputs) if answers is None else answers
        domains = [""] * len(inputs) if domains is None else domains
        rows: list[dict[str, Any]] = []
        for at, (value, answer, domain) in enumerate(zip(inputs, answers, domains, strict=True)):
            given = {"prompt": value} if isinstance(value, str | Path) else {"input": _listed(value)}
            given = {key: str(one) if isinstance(one, Path) else one for key, one in given.items()}
            rows.append({"id": str(at), **given, "answer": answer, "domain": domain})
        examples, shape = _examples([(f"{name}:{at}", row) for at, row in enumerate(rows)], name, None)
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
        domains = [""] * len(values) if domains is None else domains
        rows = [
            (f"{name}:{at}", {"id": str(at), "input": _listed(step), "domain": domain})
            for at, (step, domain) in enumerate(zip(values, domains, strict=True))
        ]
        lines, shape = _examples(rows, name, None)
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
    if not file.is_file():
        raise InputError(
            f"holds no {STREAM_FILE}", where=folder, fix="Name the folder of a stream; docs/reference/stream.md"
        )
    settings = _settings(file)
    shape = None if settings.shape is None else tuple(settings.shape)
    path = folder / EXAMPLES_FILE
    examples, shape = _examples(_lines(path), str(path), shape)
    if settings.lookback is not None:
        return _series(settings, examples, shape, folder)
    if (folder / LABELS_FILE).is_file():
        examples = _labelled(examples, folder / LABELS_FILE)
    source: tuple[StreamExample, ...] = ()
    if (folder / SOURCE_FILE).is_file():
        source, _ = _examples(_lines(folder / SOURCE_FILE), str(folder / SOURCE_FILE), shape or None)
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
    if (folder / LABELS_FILE).is_file():
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
    if source_path.is_file():
        before, _ = _examples(_lines(source_path), str(source_path), shape)
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
        plain = parsed_json(read_text(file, fix="Write it as JSON"))
    except ValueError as error:
        raise InputError(f"cannot be read ({error})", where=file, fix='Write {"genepool_stream": 1}') from None
    if isinstance(plain, dict):
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


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """What the lines of a file hold, each with its place."""
    text = read_text(path, fix="Write one JSON object a line")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", parsed_json(line)
            except ValueError as error:
                what = "an input holds NaN or infinity" if str(error).startswith("holds ") else f"is not JSON ({error})"
                raise InputError(what, where=f"{path}:{number}", fix="Correct the line, or leave it out") from None


def _examples(
    lines: Any, where: str, shape: tuple[int, ...] | None
) -> tuple[tuple[StreamExample, ...], tuple[int, ...]]:
    """The examples of some lines, and the shape that all of their inputs have."""
    found: list[StreamExample] = []
    seen: dict[str, str] = {}
    for place, row in lines:
        example, own = _example(row, place)
        if example.key in seen:
            what = f"id {example.key!r} is already at {seen[example.key]}"
            raise InputError(what, where=place, fix="Give each its own")
        seen[example.key] = place
        if found and (example.prompt is None) != (found[0].prompt is None):
            what = "has `prompt` where others have `input`, or the reverse"
            raise InputError(what, where=place, fix="Write all alike")
        if example.prompt is None:
            shape = own if shape is None else shape
            if own != shape:
                what = f"its input has shape {list(own)}, expected {list(shape)}"
                raise InputError(what, where=place, fix="Shape all inputs alike")
        found.append(example)
    if not found:
        raise InputError("holds no examples", where=where, fix=_FIX)
    return tuple(found), () if found[0].prompt is not None or shape is None else shape


def _example(row: Any, where: str) -> tuple[StreamExample, tuple[int, ...]]:
    if not isinstance(row, dict):
        raise InputError(f"got {kind_of(row)}, expected an object", where=where, fix=_FIX)
    for key in row:
        if key not in _KEYS:
            raise InputError(f"unknown key '{key:.40}'", where=where, fix=nearest(str(key), _KEYS))
    prompt, numbers = row.get("prompt"), row.get("input")
    shape: tuple[int, ...] = ()
    if (prompt is None) == (numbers is None):
        raise InputError("needs either `prompt` or `input`", where=where, fix=_FIX)
    if prompt is not None and not is_text(prompt):
        raise InputError(f"got {kind_of(prompt)} for `prompt`, expected text", where=where, fix=_FIX)
    flat: list[float] = []
    if numbers is not None:
        shape = _flattened(numbers, flat, where)
    wrong = {
        "id": not (is_line(row.get("id"), 1000) and row["id"]),
        "answer": not (row.get("answer") is None or is_line(row["answer"], 1000)),
        "domain": not is_line(row.get("domain", ""), 200),
        "severity": not (row.get("severity") is None or is_whole(row["severity"], SEVERITIES[0], SEVERITIES[-1])),
        "known": not isinstance(row.get("known", True), bool),
    }
    if (key := next((key for key, bad in wrong.items() if bad), None)) is not None:
        raise InputError(f"got {row.get(key)!r:.60} for `{key}`", where=where, fix="See docs/reference/stream.md")
    example = StreamExample(
        row["id"], prompt, tuple(flat), row.get("answer"), row.get("domain", ""), row.get("severity"),
        row.get("known", True),
    )  # fmt: skip
    return example, shape


def _flattened(value: Any, flat: list[float], where: str, depth: int = 0) -> tuple[int, ...]:
    """Puts nested lists of numbers into one list; their shape."""
    if is_number(value):
        flat.append(float(value))
        return ()
    if not isinstance(value, list) or not value or depth > 4:
        raise InputError("its input is not lists of finite numbers", where=where, fix="Write numbers; no NaN")
    shapes = {_flattened(one, flat, where, depth + 1) for one in value}
    if len(shapes) > 1:
        raise InputError("the lists of its input have unequal lengths", where=where, fix="Make them alike")
    return (len(value), *shapes.pop())


def _listed(value: Any) -> Any:
    """Arrays and tensors as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _labelled(examples: tuple[StreamExample, ...], path: Path) -> tuple[StreamExample, ...]:
    """The examples with the answers of a file of labels."""
    labels: dict[str, str] = {}
    known = {one.key: one for one in examples}
    for place, row in _lines(path):
        good = isinstance(row, dict) and set(row) == set(_LABEL_KEYS)
        if not good or not all(is_line(one, 1000) for one in row.values()):
            raise InputError("is not a label", where=place, fix='Write lines like {"id": "1", "answer": "cat"}')
        key = row["id"]
        if key not in known:
            raise InputError(
                f"a label for {key!r:.60}, an example that never came", where=place, fix=f"Add it to {EXAMPLES_FILE}"
            )
        if key in labels or known[key].answer is not None:
            raise InputError(f"a second label for {key!r:.60}", where=place, fix="Leave one of them out")
        labels[key] = row["answer"]
    return tuple(one if one.key not in labels else replace(one, answer=labels[one.key]) for one in examples)
