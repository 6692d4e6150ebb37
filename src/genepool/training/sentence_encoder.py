"""A model that turns texts into hidden states, for rewards that compare texts. Uses tasks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.models import Capability, Model, open_model
from genepool.tasks.pretrained import build_network
from genepool.tasks.tokenized import TokenizedNetwork
from genepool.weights import Weights, open_weights

if TYPE_CHECKING:
    import torch


class SentenceEncoder(TokenizedNetwork):
    """A body without a head, as transformers builds it with `AutoModel`, and its tokenizer."""

    kind = "a text encoder"
    can: ClassVar[frozenset[Capability]] = frozenset({"hidden states"})

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """It is asked for by name alone."""
        return False

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        return build_network(weights, kind, "AutoModel", "text encoder")


def load_encoder(name: str, device: str, dtype: str) -> Callable[[Sequence[str]], list[torch.Tensor]]:
    """The last hidden states of texts, (tokens, hidden) each, of the encoder of this name.

    Args:
        name: a sentence transformer or another body without a head; or any model that tells its hidden states.
        device: torch's name of the device.
        dtype: what it computes in.

    Raises:
        InputError: it cannot be loaded, or reads no texts.
    """
    weights = open_weights(name)
    architectures = (weights.config or {}).get("architectures") or [""]
    model: Model
    if str(architectures[0]).endswith("Model"):
        model = SentenceEncoder.load(weights, device=device, dtype=dtype)
    else:
        model = open_model(weights).load(device, dtype)
    if "hidden states" not in model.can or model.reads != "text":
        raise InputError(f"{model.kind} gives no hidden states of texts", where=name, fix="Name a text encoder")
    return lambda texts: [layers[-1] for layers in model.hidden_states(list(texts))]
