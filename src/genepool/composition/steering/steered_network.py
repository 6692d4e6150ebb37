"""A network whose hidden states are moved by constants while it answers: a causal language model of transformers.

Used by the composer `steering`. `layers` does the moving.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel

from genepool.composition.steering.layers import edited


class SteeredForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A network, and what is added behind some of its layers.

    Vectors are added from a prompt's last token on, which predicts the answer's first: at the last `logits_to_keep`
    places of the first call, or from `answer_starts` on, and at all places of later calls.

    Args:
        network: transformers' causal language model.
        layers: its layers.
        vectors: what is added behind each layer, by its number, (width,).
        everywhere: add them to the prompt's tokens too.
    """

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(
        self,
        network: Any,
        layers: Sequence[torch.nn.Module],
        vectors: Mapping[int, torch.Tensor],
        *,
        everywhere: bool = False,
    ) -> None:
        super().__init__(copy.deepcopy(network.config))
        self.network, self.everywhere = network, everywhere
        self.generation_config = copy.deepcopy(network.generation_config)
        self._layers = tuple(layers)
        self._fewer_logits = "logits_to_keep" in inspect.signature(network.forward).parameters
        self._vectors = {number: vector.to(network.device, network.dtype) for number, vector in vectors.items()}

    def get_output_embeddings(self) -> Any:
        """The network's: its rows are the vocabulary."""
        return self.network.get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        logits_to_keep: int = 0,
        answer_starts: torch.Tensor | None = None,
        **named: Any,
    ) -> Any:
        """What the network gives when its layers are moved.

        Args:
            input_ids: new tokens, (rows, new).
            past_key_values, named: as for the network.
            logits_to_keep: give logits for this many of the last places; 0 for all.
            answer_starts: the first place of each row that is moved, (rows,), where rows are read whole.
        """
        rows, new = input_ids.shape
        begun = past_key_values is not None and past_key_values.get_seq_length() > 0
        starts = torch.zeros(rows, dtype=torch.long, device=input_ids.device)
        if answer_starts is not None and not self.everywhere:
            starts = answer_starts.to(input_ids.device)
        elif not (begun or self.everywhere) and logits_to_keep:
            starts = starts + max(0, new - logits_to_keep)
        moved = (torch.arange(new, device=input_ids.device) >= starts.unsqueeze(-1)).unsqueeze(-1)

        def add(number: int, states: torch.Tensor) -> torch.Tensor:
            vector = self._vectors.get(number)
            return states if vector is None else states + moved.to(states.dtype) * vector

        if self._fewer_logits:
            named["logits_to_keep"] = logits_to_keep
        with edited(self._layers, add):
            result = self.network(input_ids=input_ids, past_key_values=past_key_values, **named)
        result.logits = result.logits[:, -logits_to_keep:] if logits_to_keep else result.logits
        return result
