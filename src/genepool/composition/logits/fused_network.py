"""Several networks that answer as one: a causal language model of transformers whose cache is a tuple of caches.

`FusedForCausalLM` is a `GenerationMixin`, so whatever decodes one of transformers' models decodes this: sampling,
beams, assisted decoding. Its cache has a part for each model and the rule's states; it is reordered and cropped as one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from genepool.composition.logits.readers import Reader, ReadingState, ReadTokens
from genepool.composition.logits.rules import FusionRule


class FusedCache(Cache):  # type: ignore[misc]
    """What the models of a fusion remember of the rows of a batch.

    Attributes:
        parts: one state a model; none before the first tokens are read.
        states: the rule's state behind each place of an answer, (rows, places, state size); None without states.
        seen: how many of the leading model's tokens were read.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.parts: tuple[ReadingState, ...] = ()
        self.states: torch.Tensor | None = None
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens were read."""
        return self.seen

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was, in every part."""
        for part in self.parts:
            part.reorder(beam_idx)
        if self.states is not None:
            self.states = self.states[beam_idx]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows, in this order."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        if self.parts:
            self.reorder_cache(torch.arange(self.batch_size).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens; their number is given below zero, as transformers gives it."""
        fewer = abs(tokens_to_remove)
        for part in self.parts:
            part.crop(fewer)
        if fewer and self.states is not None:
            self.states = self.states[:, : max(0, self.states.shape[1] - fewer)]
        self.seen -= fewer

    @property
    def batch_size(self) -> int:
        """The number of rows; -1 before anything was read."""
        return self.parts[0].rows if self.parts else -1

    @property
    def is_compileable(self) -> bool:
        """Never: the parts grow."""
        return False


class FusedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A leading model and others whose predictions change its own.

    Answers begin behind a prompt's last token, and a rule with states begins there: at the last
    `logits_to_keep` places of the first call, or at `answer_starts`. Before it the logits are the leading model's own.

    Args:
        lead: reads and writes the tokens; its config and its end tokens are those of the whole.
        others: the other models, in the order that the rule expects.
        rule: how the logits become one.
    """

    # How its models attend is theirs; nothing is computed here but their logits.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, lead: Reader, others: Sequence[Reader], rule: FusionRule) -> None:
        super().__init__(copy.deepcopy(lead.network.config))
        self.readers, self.rule = (lead, *others), rule
        self.networks = torch.nn.ModuleList(dict.fromkeys(reader.network for reader in self.readers))
        self.generation_config = copy.deepcopy(lead.network.generation_config) or GenerationConfig()

    def get_output_embeddings(self) -> Any:
        """The leading model's: its rows are the vocabulary."""
        return self.readers[0].network.get_output_embeddings()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *others: Any, **named: Any
    ) -> None:
        """What `generate` begins with: a tuple of caches instead of one made from the config."""
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = FusedCache()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: FusedCache | None = None,
        use_cache: bool | None = True,
        logits_to_keep: int = 0,
        answer_starts: torch.Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Fused logits.

        Args:
            input_ids: new tokens of the leading model, (rows, new).
            attention_mask: which tokens count, read ones first, (rows, read + new); all when None.
            position_ids: of the new tokens, (rows, new); counted from the mask when None.
            past_key_values: what an earlier call returned.
            use_cache: return the cache.
            logits_to_keep: give logits for this many of the last places; 0 for all.
            answer_starts: the first place of each row whose logits matter, (rows,), where rows are read whole.
        """
        cache = FusedCache() if past_key_values is None else past_key_values
        new = input_ids.shape[1]
        keep = min(logits_to_keep or new, new)
        tokens = ReadTokens(input_ids, attention_mask, position_ids, cache.seen)
        before = cache.parts or (None,) * len(self.readers)
        remember = bool(use_cache)
        read = [reader.read(tokens, part, keep, remember) for reader, part in zip(self.readers, before, strict=True)]
        lead = read[0][0].float()
        others = [logits.to(lead.device).float() for logits, _ in read[1:]]
        stacked = torch.stack(others) if others else lead.new_zeros(0, *lead.shape)
        begins = lead.new_zeros(len(lead), dtype=torch.long)
        if answer_starts is not None:
            begins = answer_starts.to(lead.device) - (new - keep)
        fused, states = self._fused(lead, stacked, cache.states, begins)
        if not remember:
            return CausalLMOutputWithPast(logits=fused)
        cache.parts, cache.seen = tuple(part for _, part in read), cache.seen + new
        if states is not None:
            cache.states = states if cache.states is None else torch.cat([cache.states, states], 1)
        return CausalLMOutputWithPast(logits=fused, past_key_values=cache)

    def _fused(
        self,
        lead: torch.Tensor,
        others: torch.Tensor,
        states: torch.Tensor | None,
        begins: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Fused logits (rows, places, vocabulary), and the states behind these places, (rows, places, state size).

        Args:
            lead, others: logits, (rows, places, vocabulary), and the same behind the models.
            states: of the places before.
            begins: the place at which each row's answer begins, (rows,).
        """
        if not self.rule.state_size:
            return self.rule.fuse(lead, others, None)[0], None
        rows, places, _ = lead.shape
        nothing = lead.new_full((rows, self.rule.state_size), float("nan"))
        state = nothing if states is None or not states.shape[1] else states[:, -1]
        fused, found = [], []
        for place in range(places):
            logits, after = self.rule.fuse(lead[:, place], others[:, :, place], state)
            assert after is not None
            inside = (begins <= place).unsqueeze(-1)
            fused.append(torch.where(inside, logits, lead[:, place]))
            state = torch.where(inside, after, nothing)
            found.append(state)
        return torch.stack(fused, 1), torch.stack(found, 1)
