"""A classifier of images: it is shown image files and gives every class a score.

Any architecture that transformers builds with `AutoModelForImageClassification`, with the image processor beside it;
the classes are those of id2label. Prompts are paths of files, which `images` opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import files_fault
from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.classes import class_labels
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.images import open_image
from genepool.tasks.models import Capability, Input, model_kind
from genepool.tasks.network import Network, behind_the_body
from genepool.tasks.pretrained import build_network, model_folder, named_classes
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

# A search asks the same images hundreds of times; what they were made into is remembered up to so many bytes.
_REMEMBERED_BYTES = 256 * 1024**2


@model_kind
class ImageClassifier(Network):
    """An image classifier and its image processor, ready to be asked.

    Args:
        weights, model: as for `Network`.
        processor: transformers' image processor.
    """

    kind = "an image classifier"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes", "hidden states"})
    reads: ClassVar[Input] = "image"

    def __init__(self, weights: Weights, model: Any, processor: Any) -> None:
        super().__init__(weights, model)
        self.processor = processor
        self._labels = class_labels(model.config, weights.name)
        self._known: dict[str, torch.Tensor] = {}
        self._known_bytes = 0

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs whose architecture has a head for images."""
        return any("ForImageClassification" in name for name in named_classes(config))

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        return build_network(weights, kind, "AutoModelForImageClassification", "image classifier", classes=True)

    @classmethod
    def _prepared_by(cls, weights: Weights) -> tuple[Any, ...]:
        return (_load_processor(weights),)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, from id2label."""
        return self._labels

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """All that stands behind the network's body."""
        return behind_the_body(network)

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        import torch

        found = torch.zeros(len(prompts), len(self.labels))
        fix = "Copy the base's preprocessor_config.json"
        odd = files_fault("cannot read images as its image processor makes them", where=self.title, fix=fix)
        with torch.inference_mode(), odd:
            for rows, pixels in self._batches(prompts, batch_size):
                found[rows] = self.run(rows, pixel_values=pixels).logits.float().log_softmax(-1).cpu()
        return found

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        prompts = [one.prompt for one in questions]
        return [
            class_batch({"pixel_values": pixels}, rows, questions, self.labels, self.title)
            for rows, pixels in self._batches(prompts, batch_size)
        ]

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        pixels = batch.inputs["pixel_values"].to(self.device)
        logits: torch.Tensor = self.run(batch.numbers, pixel_values=pixels).logits
        return logits.float()

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; places are patches, or the pixels of a convolution's maps."""
        import torch

        found: dict[int, tuple[torch.Tensor, ...]] = {}
        with torch.inference_mode():
            for rows, pixels in self._batches(prompts, batch_size):
                layers = self.run(rows, pixel_values=pixels, output_hidden_states=True).hidden_states
                flat = [layer.flatten(2).transpose(1, 2) if layer.dim() == 4 else layer for layer in layers]
                for line, row in enumerate(rows):
                    found[row] = tuple(layer[line].float().cpu() for layer in flat)
        return [found[row] for row in range(len(prompts))]

    def _batches(self, prompts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(numbers of the prompts, their pixels) in batches; images of one shape stand together."""
        import torch

        for start in range(0, len(prompts), batch_size):
            shapes: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = {}
            for row in range(start, min(start + batch_size, len(prompts))):
                pixels = self._pixels(prompts[row])
                shapes.setdefault(tuple(pixels.shape), []).append((row, pixels))
            for alike in shapes.values():
                batch = torch.stack([pixels for _, pixels in alike])
                yield [row for row, _ in alike], batch.to(device=self.device, dtype=self.model.dtype)

    def _pixels(self, path: str) -> torch.Tensor:
        """One image as the network reads it; opened alone, so that a batch of large ones never fills the memory."""
        known = self._known.get(path)
        if known is None:
            refused = files_fault("the image processor refuses it", where=path, fix="Leave the image out")
            with open_image(path) as image, refused:
                known = self.processor(images=image, return_tensors="pt").pixel_values[0]
            if self._known_bytes < _REMEMBERED_BYTES:
                self._known[path] = known
                self._known_bytes += known.nbytes
        return known


def _load_processor(weights: Weights) -> Any:
    """The image processor beside the weights, computing with pillow whatever else is installed."""
    from transformers import AutoImageProcessor

    folder = model_folder(weights)
    fix = "Copy the base's preprocessor_config.json"
    with files_fault("has no usable image processor", where=folder, fix=fix):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
