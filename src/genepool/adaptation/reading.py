"""Makes what a model reads of the examples of a stream: tensors of numbers, or of prompts as the model's kind does it.

Checks that the examples are of the model: their shapes, and that their answers are among its classes or as long as what
it forecasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from genepool.adaptation.adapter import SourceExamples
from genepool.adaptation.stream import Stream
from genepool.adaptation.stream_lines import StreamExample
from genepool.adaptation.stream_model import Inputs
from genepool.errors import InputError, listed
from genepool.tasks.answers import Question
from genepool.tasks.models.digits import PIXELS, DigitsModel
from genepool.tasks.models.forecaster import SERIES, Forecaster
from genepool.tasks.models.image_classifier import ImageClassifier

if TYPE_CHECKING:
    from genepool.tasks.network import Network

#: Examples of the source in a batch.
SOURCE_BATCH = 64


class StreamReader:
    """Reads the examples of a stream for one model.

    Args:
        model: who is asked.
        stream: the stream.

    Raises:
        InputError: the stream's inputs are not the model's, or an answer is none of its classes.
    """

    def __init__(self, model: Network, stream: Stream) -> None:
        self._model, self._stream = model, stream
        forecasts = "forecasts" in model.can
        self._labels = {} if forecasts else {name: number for number, name in enumerate(model.labels)}
        self._key = ""
        if stream.shape:
            self._key = _key_of(model, stream)
        if forecasts and not stream.horizon:
            raise InputError(
                f"is no series, and {model.title} forecasts series",
                where=stream.where,
                fix="Set `lookback` and `horizon` in stream.json, or name a classifier",
            )
        if not forecasts:
            self._check_answers()

    def inputs(self, examples: Sequence[StreamExample]) -> Inputs:
        """What the model is called with for some examples.

        Raises:
            InputError: the model cannot read a prompt.
        """
        device = self._model.device
        if self._key:
            values = torch.tensor([one.numbers for one in examples], dtype=torch.float32)
            values = values.view(len(examples), *self._stream.shape).to(device, _dtype(self._model))
            return Inputs(((tuple(range(len(examples))), {self._key: values}),), len(examples))
        # The answer is not read: a classifier's batch holds its prompts alone.
        anything = next(iter(self._labels))
        questions = [Question(f"{self._stream.where}:{one.key}", self._prompt(one), anything) for one in examples]
        made = self._model.answer_batches(questions, len(questions))
        parts = tuple(
            (tuple(one.numbers), {name: tensor.to(device) for name, tensor in one.inputs.items()}) for one in made
        )
        return Inputs(parts, len(examples))

    def _prompt(self, example: StreamExample) -> str:
        """What the model reads; the file of an image is named from the folder of its stream."""
        prompt = str(example.prompt)
        if self._model.reads != "image" or self._stream.folder is None:
            return prompt
        path = self._stream.folder / prompt
        # Outside of it a file would be no part of the stream: it could change, and the digest would not.
        if not path.resolve().is_relative_to(self._stream.folder.resolve()):
            raise InputError(
                f"the image {prompt!r:.200} lies outside the stream's folder",
                where=f"{self._stream.where}:{example.key}",
                fix=f"Put it into {self._stream.folder}",
            )
        return str(path)

    def targets(self, examples: Sequence[StreamExample]) -> torch.Tensor:
        """Numbers of the right classes, shape (n,), int64; -1 where there is no label, or the class is unknown.

        Of a series what follows each window, shape (n, horizon, variables), float32.
        """
        if self._stream.horizon:
            values = torch.tensor([one.future for one in examples], dtype=torch.float32)
            return values.view(len(examples), self._stream.horizon, -1)
        return torch.tensor([self._labels.get(one.answer or "", -1) if one.known else -1 for one in examples])

    def source(self) -> SourceExamples | None:
        """The source examples, None where the stream has none."""
        rows = self._stream.source
        if not rows:
            return None
        parts = [rows[at : at + SOURCE_BATCH] for at in range(0, len(rows), SOURCE_BATCH)]
        domains = tuple(tuple(one.domain for one in part) for part in parts)
        return SourceExamples(tuple(map(self.inputs, parts)), tuple(map(self.targets, parts)), domains)

    def _check_answers(self) -> None:
        stream, advice = self._stream, "; mark others with `known: false`"
        for where, fix, part in ((stream.where, advice, stream.examples), (stream.source_where, "", stream.source)):
            for one in part:
                if one.known and one.answer is not None and one.answer not in self._labels:
                    what = f"the answer {one.answer[:40]!r} is none of the {len(self._labels)} classes"
                    raise InputError(
                        f"{what} of {self._model.title}",
                        where=f"{where}:{one.key}",
                        fix=f"Its classes are {listed(self._labels)}{fix}",
                    )


def _key_of(model: Network, stream: Stream) -> str:
    """What inputs of numbers are called when the model is asked.

    Raises:
        InputError: the model reads no numbers, or of another shape.
    """
    where = stream.where
    if isinstance(model, Forecaster):
        if stream.horizon and (stream.shape[0], stream.horizon) != (model.lookback, model.horizon):
            raise InputError(
                f"has windows of {stream.shape[0]} and {stream.horizon} steps, expected {model.lookback} and "
                f"{model.horizon}, which {model.title} reads and forecasts",
                where=where,
                fix="Set `lookback` and `horizon` in stream.json",
            )
        return SERIES
    if stream.horizon:
        raise InputError(
            f"is a series, and {model.title} is {model.kind}", where=where, fix="Name a forecaster, or another stream"
        )
    if isinstance(model, DigitsModel):
        if stream.shape != (PIXELS,):
            raise InputError(
                f"inputs have shape {list(stream.shape)}, expected {[PIXELS]}",
                where=where,
                fix="Name a stream of digits",
            )
        return "pixels"
    if isinstance(model, ImageClassifier):
        channels = getattr(model.model.config, "num_channels", 3)
        if len(stream.shape) != 3 or stream.shape[0] != channels:
            raise InputError(
                f"inputs have shape {list(stream.shape)}, expected [{channels}, height, width]",
                where=where,
                fix="Name a stream of images that suits the model",
            )
        return "pixel_values"
    raise InputError(f"{model.kind} reads prompts, not numbers", where=where, fix="Write `prompt` instead of `input`")


def _dtype(model: Network) -> torch.dtype:
    dtype: torch.dtype = next(model.model.parameters()).dtype
    return dtype
