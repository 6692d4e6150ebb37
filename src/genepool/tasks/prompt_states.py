"""What a language model makes of prompts inside: hidden states, and the numbers of tokens.

Mixtures of experts tell their gates from them; `cli` hands this to `genepool.merging.mixture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks.models import load_as, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.pretrained import load_tokenizer
from genepool.weights import Weights

if TYPE_CHECKING:
    from typing import Any

    import torch


class PromptReader:
    """Reads prompts with a model that is loaded once.

    Args:
        device: torch's name of the device.
        dtype: what the model computes in.
    """

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        self._device, self._dtype = device, dtype
        self._load = cache(self._loaded)
        self._tokenizer = cache(load_tokenizer)

    def _loaded(self, weights: Weights) -> LanguageModel:
        return load_as(
            LanguageModel, open_model(weights), "a gate from hidden states", device=self._device, dtype=self._dtype
        )

    def hidden_states(self, weights: Weights, prompts: Sequence[str], average: bool) -> torch.Tensor:
        """The mean over prompts of the hidden states before each layer, `(layers, hidden)` float32.

        Each prompt is read by itself, so there is no padding to leave out.

        Args:
            weights: the model.
            prompts: at least one.
            average: take the mean over a prompt's tokens instead of its last token.

        Raises:
            InputError: the model is no causal language model, or a prompt has no token or more than the model reads.
        """
        import torch

        model = self._load(weights)
        states = []
        for prompt, numbers in zip(prompts, self.token_numbers(weights, prompts), strict=True):
            if len(numbers) > model.context:
                raise InputError(
                    f"the prompt {prompt!r:.80} has {len(numbers):,} tokens, and the model reads at most "
                    f"{model.context:,}",
                    where=weights.name,
                    fix="Shorten it",
                )
            ids = torch.tensor([numbers], device=model.device)
            with torch.no_grad():
                given = model.model(input_ids=ids, output_hidden_states=True).hidden_states[:-1]
            layers = torch.stack([one[0].to("cpu", torch.float32) for one in given])
            states.append(layers.mean(1) if average else layers[:, -1])
        return torch.stack(states).mean(0)

    def token_numbers(self, weights: Weights, prompts: Sequence[str]) -> list[list[int]]:
        """The numbers of each prompt's tokens, behind the token that begins a text where there is one.

        Raises:
            InputError: the model has no tokenizer, or a prompt has no token.
        """
        tokenizer: Any = self._tokenizer(weights)
        found = []
        for prompt in prompts:
            text = (tokenizer.bos_token or "") + prompt
            numbers = [int(number) for number in tokenizer(text, add_special_tokens=False, verbose=False).input_ids]
            if not numbers:
                raise InputError(f"the prompt {prompt!r:.80} has no token", where=weights.name, fix="Write another")
            found.append(numbers)
        return found
