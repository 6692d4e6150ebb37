"""What genepool's own networks share as models: they are built from their config, and read each prompt as numbers.

`OwnNetwork` loads and is asked for hidden states; `OwnClassifier` is asked for classes too. A model of the testbeds'
digits and a policy are such. Importing this file needs no torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.network import Network
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


class BuiltNetwork(Network):
    """A network of ours in memory, built from its config."""

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """See `Model.load`."""
        result = super().load(weights, device=device, dtype=dtype)
        result.assign(weights)
        return result

    @classmethod
    @abstractmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""

    def _rebuilt(self, weights: Weights) -> Mapping[str, torch.Tensor]:
        """Names and layout are the same in memory: what differs is told."""
        return {name: weights.read(name) for name in weights.names()}

    @classmethod
    def outline(cls, weights: Weights) -> Any:
        """See `Network.outline`."""
        import torch

        return cls._built(weights, torch.float32)


class OwnNetwork(BuiltNetwork):
    """A network of ours in memory, ready to be asked.

    Class attributes:
        input_name: of its only input, as the network takes it.
    """

    input_name: ClassVar[str]

    @abstractmethod
    def _inputs(self, prompts: Sequence[str]) -> torch.Tensor:
        """What prompts write down, as the network reads it: (prompts, numbers)."""

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """The last layer."""
        return ["head"]

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; a network without places has one."""
        import torch

        parts = []
        with torch.inference_mode():
            for rows, part in self._parts(prompts, batch_size):
                with self.passing(rows):
                    parts.append(self.model.states(part))
        layers = [torch.cat(layer).float().cpu() for layer in zip(*parts, strict=True)]
        return list(zip(*(layer if layer.dim() == 3 else layer[:, None] for layer in layers), strict=True))

    def _parts(self, prompts: Sequence[str], size: int) -> Iterator[tuple[range, torch.Tensor]]:
        """(numbers of some prompts, what they write down), at most `size` at a time."""
        inputs = self._inputs(prompts)
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            yield rows, inputs[start : rows.stop]


class OwnClassifier(OwnNetwork):
    """A network of ours whose last layer scores classes; its kind says `labels`."""

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        import torch

        with torch.inference_mode():
            logits = [self.run(rows, **{self.input_name: part}) for rows, part in self._parts(prompts, batch_size)]
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
            inputs = {self.input_name: self._inputs([questions[row].prompt for row in rows])}
            made.append(class_batch(inputs, rows, questions, self.labels, self.title))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        logits: torch.Tensor = self.run(batch.numbers, **{self.input_name: batch.inputs[self.input_name]})
        return logits.float()


def built_to_fit(make: Callable[[], Any], weights: Weights) -> Any:
    """A network whose config says every size, built once these are known to be those of the stored tensors.

    A config of a few bytes could ask for all memory.

    Args:
        make: builds it; called first where tensors take no memory.
        weights: what it will hold.

    Raises:
        InputError: a tensor is not stored, or has another shape than the config says.
    """
    import torch

    with torch.device("meta"):
        outline = make()
    for name, parameter in outline.named_parameters():
        shape = list(weights.info(name).shape) if name in weights else None
        if shape != list(parameter.shape):
            found = f"{name} has shape {shape}" if shape is not None else f"lacks the tensor {name}"
            raise InputError(
                f"{found}, and its config.json asks for {list(parameter.shape)}",
                where=weights.name,
                fix="Copy the config.json of the model that it was made of",
            )
    return make()
