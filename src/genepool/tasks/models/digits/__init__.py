"""The model of the digits testbed: it reads an image written as 64 numbers and says which digit it shows.

`network` is the network itself; the testbed trains it and writes the tasks. Importing this file needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.network import Network
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "genepool_digits"
SIDE = 8
PIXELS = SIDE * SIDE
# scikit-learn's digits count the black dots of 4 x 4 blocks.
WHITE = 16
CLASSES = 10


@model_kind
class DigitsModel(Network):
    """A digits model in memory, ready to be asked."""

    kind = "a model of the digits testbed"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes", "hidden states"})

    def __init__(self, weights: Weights, model: Any) -> None:
        super().__init__(weights, model)
        self._encoded: dict[str, torch.Tensor] = {}

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs of the testbed's own type."""
        return config.get("model_type") == MODEL_TYPE

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> DigitsModel:
        """See `Model.load`."""
        result = super().load(weights, device=device, dtype=dtype)
        result.assign(weights)
        return result

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""
        from genepool.tasks.models.digits.network import DigitsTransformer, Shape

        return DigitsTransformer(Shape.of(weights.config, weights.name)).eval().to(dtype=kind)

    def _rebuilt(self, weights: Weights) -> Mapping[str, torch.Tensor]:
        """Names and layout are the same in memory: what differs is told."""
        return {name: weights.read(name) for name in weights.names()}

    @property
    def labels(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(map(str, range(CLASSES)))

    @classmethod
    def outline(cls, weights: Weights) -> Any:
        """See `Network.outline`."""
        import torch

        return cls._built(weights, torch.float32)

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """The last layer."""
        return ["head"]

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        import torch

        with torch.inference_mode():
            logits = [self.run(rows, pixels=part) for rows, part in self._parts(prompts, batch_size)]
            return torch.cat(logits).float().log_softmax(-1).cpu()

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        made = []
        for start in range(0, len(questions), batch_size):
            rows = range(start, min(start + batch_size, len(questions)))
            pixels = self._pixels([questions[row].prompt for row in rows])
            made.append(class_batch({"pixels": pixels}, rows, questions, self.labels, self.title))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        logits: torch.Tensor = self.run(batch.numbers, pixels=batch.inputs["pixels"])
        return logits.float()

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; places are the class token and the four patches."""
        import torch

        parts = []
        with torch.inference_mode():
            for rows, part in self._parts(prompts, batch_size):
                with self.passing(rows):
                    parts.append(self.model.states(part))
        layers = [torch.cat(layer).float().cpu() for layer in zip(*parts, strict=True)]
        return list(zip(*layers, strict=True))

    def _parts(self, prompts: Sequence[str], size: int) -> Iterator[tuple[range, torch.Tensor]]:
        """(numbers of some prompts, their pixels), at most `size` at a time."""
        pixels = self._pixels(prompts)
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            yield rows, pixels[start : rows.stop]

    def _pixels(self, prompts: Sequence[str]) -> torch.Tensor:
        """The images as the network reads them, (prompts, 64).

        A comparison of merges asks the same images hundreds of times: each is taken apart once.
        """
        import torch

        for prompt in prompts:
            if prompt not in self._encoded:
                self._encoded[prompt] = encode_pixels(prompt)
        pixels = torch.stack([self._encoded[prompt] for prompt in prompts])
        return pixels.to(device=self.device, dtype=next(self.model.parameters()).dtype)


def encode_pixels(prompt: str) -> torch.Tensor:
    """The pixels of a prompt as the model reads them: shape (64,), from 0 to 1.

    Raises:
        InputError: the prompt is not 64 numbers from 0 to 16.
    """
    import torch

    words = prompt.split()
    if len(words) != PIXELS or not all(word.isdecimal() and int(word) <= WHITE for word in words):
        raise InputError(
            f"got {prompt[:40]!r}, expected an image",
            where="prompt",
            fix=f"Give {PIXELS} whole numbers from 0 to {WHITE}",
        )
    return torch.tensor([int(word) for word in words], dtype=torch.float32) / WHITE
