"""The model of the digits testbed: it reads an image written as 64 numbers and says which digit it shows.

`network` is the network itself; the testbed trains it and writes the tasks. Importing this file needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.own_network import OwnClassifier, built_to_fit
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
class DigitsModel(OwnClassifier):
    """A digits model in memory, ready to be asked."""

    kind = "a model of the digits testbed"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes", "hidden states"})
    input_name: ClassVar[str] = "pixels"

    def __init__(self, weights: Weights, model: Any) -> None:
        super().__init__(weights, model)
        self._encoded: dict[str, torch.Tensor] = {}

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs of the testbed's own type."""
        return config.get("model_type") == MODEL_TYPE

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""
        from genepool.tasks.models.digits.network import DigitsTransformer, Shape

        shape = Shape.of(weights.config, weights.name)
        return built_to_fit(partial(DigitsTransformer, shape), weights).eval().to(dtype=kind)

    @property
    def labels(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(map(str, range(CLASSES)))

    def _inputs(self, prompts: Sequence[str]) -> torch.Tensor:
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
