"""A causal language model that reads every token twice: the base decides, and the base with its experts answers.

Both passes remember what they read: the cache has two parts, which are reordered and cropped together, so decoding with
it equals reading everything again. Used by `x_lora`. Uses `adapter_mixture` and `token_scores`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from genepool.composition.composed_model import LanguageModelAroundOne
from genepool.composition.routing.adapter_mixture import AdapterMixture
from genepool.composition.routing.shares import token_weights, used_skills
from genepool.composition.routing.token_scores import TokenScores
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.used_skills import UsedSkills


class TwoPassCache(Cache):  # type: ignore[misc]
    """What both passes remember of the rows of a batch.

    Attributes:
        parts: of the base, and of the base with its experts; none before the first tokens are read.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.parts: tuple[Any, ...] = ()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens were read."""
        return int(self.parts[0].get_seq_length(layer_idx)) if self.parts else 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was, in both parts."""
        for part in self.parts:
            part.reorder_cache(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows, in this order."""
        for part in self.parts:
            part.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        for part in self.parts:
            part.batch_repeat_interleave(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens; their number is given below zero, as transformers gives it."""
        for part in self.parts:
            part.crop(tokens_to_remove)

    @property
    def batch_size(self) -> int:
        """The number of rows; -1 before anything was read."""
        return int(self.parts[0].batch_size) if self.parts else -1

    @property
    def is_compileable(self) -> bool:
        """Never: the parts grow."""
        return False


class TwoPassForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A network whose layers hold experts, and the router that the network without them decides by.

    Args:
        network: transformers' causal language model.
        mixture: what its layers add.
        scores: the router.
    """

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, network: Any, mixture: AdapterMixture, scores: TokenScores) -> None:
        super().__init__(copy.deepcopy(network.config))
        self.network, self.mixture, self.scores = network, mixture, scores
        self.generation_config = copy.deepcopy(network.generation_config)
        self._fewer_logits = "logits_to_keep" in inspect.signature(network.forward).parameters

    def get_output_embeddings(self) -> Any:
        """The network's: its rows are the vocabulary."""
        return self.network.get_output_embeddings()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *others: Any, **named: Any
    ) -> None:
        """What `generate` begins with: two caches instead of one made from the config."""
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = TwoPassCache()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: TwoPassCache | None = None,
        use_cache: bool | None = True,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """What the network with its experts gives.

        Args:
            input_ids: new tokens, (rows, new).
            attention_mask: which tokens count, read ones first, (rows, read + new); all when None.
            position_ids: of the new tokens, (rows, new).
            past_key_values: what an earlier call returned.
            use_cache: return the cache.
            logits_to_keep: give logits for this many of the last places; 0 for all.
        """
        cache = TwoPassCache() if past_key_values is None else past_key_values
        before = cache.parts or (None, None)
        read = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": bool(use_cache)}
        if position_ids is not None:
            read["position_ids"] = position_ids
        with torch.no_grad(), self.mixture.off():
            plain = self.network.base_model(**read, past_key_values=before[0])
        self.scores.score(plain.last_hidden_state)
        fewer = {"logits_to_keep": logits_to_keep} if self._fewer_logits else {}
        result = self.network(**read, **fewer, past_key_values=before[1])
        logits = result.logits[:, -logits_to_keep:] if logits_to_keep else result.logits
        if not use_cache:
            return CausalLMOutputWithPast(logits=logits)
        cache.parts = (plain.past_key_values, result.past_key_values)
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


class TwoPassLanguageModel(LanguageModelAroundOne):
    """A language model that tasks can ask.

    Args:
        base: the base in memory, changed in place from now on.
        mixture: what its layers add.
        scores: the router.
        skill_names: of the experts.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    kind = "a token-routed language model of two passes"

    def __init__(
        self,
        base: LanguageModel,
        mixture: AdapterMixture,
        scores: TokenScores,
        skill_names: list[str],
        name: str,
        fingerprint: str,
    ) -> None:
        super().__init__(base, TwoPassForCausalLM(base.model, mixture, scores).eval(), name, fingerprint)
        self.mixture, self.skill_names = mixture, skill_names

    @property
    def keeps_keys_and_values(self) -> bool:
        """Of two passes, so nobody else may put rows of them together."""
        return False

    @property
    def state_bytes_per_token(self) -> int:
        """Of both passes."""
        return 2 * self.base.state_bytes_per_token

    def read(self, prompt: str) -> None:
        """Reads a prompt, for whoever watches the mixture."""
        with torch.inference_mode():
            self.model(input_ids=torch.tensor([self.base.encode(prompt)], device=self.base.device), use_cache=False)

    def token_weights(self, prompt: str, answer: str = "") -> tuple[list[str], torch.Tensor]:
        """The tokens of a prompt and an answer, and the weights of the skills at each; see `shares.token_weights`."""
        return token_weights(self.base, self.model, self.mixture, prompt, answer)

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`."""
        return used_skills(self, prompts, answers)

    def remove(self) -> None:
        """Makes the network the base again; the model must not be asked any more."""
        self.mixture.remove()
