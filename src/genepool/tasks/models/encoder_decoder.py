"""An encoder-decoder language model, T5- or BART-like: it reads a prompt whole and writes a text of its own.

Any architecture that transformers builds with `AutoModelForSeq2SeqLM`. Decoding and judging answers are those of
`decoding`, so drawn answers belong to (seed, key) here too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, with_end
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, Forced, Written, batches, check_length, forced, write_rows
from genepool.tasks.likelihoods import ContinuationLikelihood, judged
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.pretrained import build_network, model_folder, named_classes, try_network, use_generation_config
from genepool.tasks.tokenized import WritingNetwork, padded
from genepool.tasks.written_rows import BatchRows
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


@model_kind
class EncoderDecoder(WritingNetwork):
    """An encoder-decoder language model and its tokenizer, ready to be asked."""

    kind = "an encoder-decoder language model"
    can: ClassVar[frozenset[Capability]] = frozenset({"text", "likelihoods", "hidden states"})

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs that say so themselves, unless they name another head."""
        named = "".join(named_classes(config))
        return config.get("is_encoder_decoder") is True and "Classification" not in named

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        model = build_network(weights, kind, "AutoModelForSeq2SeqLM", "encoder-decoder language model")
        use_generation_config(model, model_folder(weights))
        try_network(model, weights.name, "input_ids", "decoder_input_ids")
        return model

    # ------------------------------------------------------------------ what it is asked

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`."""
        import torch

        heads = self._heads(prompts)
        if self._room < 1:
            raise InputError(
                f"its decoder has no room for an answer in a context of {self.context}",
                where=self.name,
                fix="Copy the config of its base",
            )
        written: dict[int, Written] = {}
        with torch.inference_mode():
            for rows in batches([len(head) for head in heads], batch_size, self.logit_bytes, last_only=True):
                batch = _DecodedRows(self, [heads[row] for row in rows], rows)
                limits = [min(decoding.max_new_tokens, self._room)] * len(rows)
                found = write_rows(self, batch, limits, [keys[row] for row in rows], decoding)
                written.update(zip(rows, found, strict=True))
        return [written[row] for row in range(len(heads))]

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """See `Model.forced_answers`."""
        tails = [self.encode_target(answer) for answer in answers]
        results: dict[int, Forced] = {}
        for place, logits in self._read(self._heads(prompts), tails, batch_size):
            tail = tails[place]
            logprob = judged(logits[: len(tail)], tail).logprob
            written = logits.argmax(-1).tolist()
            results[place] = forced(self, written, logprob, tail, answers[place], decoding, strip, self._room)
        return [results[place] for place in range(len(tails))]

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """See `Model.loglikelihoods`: of each text as what the decoder writes, its end not counted."""
        tails = [self.encode_target(text) for text in continuations]
        found = {
            place: judged(logits[: len(tails[place])], tails[place])
            for place, logits in self._read(self._heads(prompts), tails, batch_size)
        }
        return [found[place] for place in range(len(tails))]

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`: the encoder reads the prompt, the decoder the answer; rows hold one each."""
        import torch

        heads = self._heads([one.prompt for one in questions])
        tails = [with_end(self, self.encode_target(one.answer), one, closed) for one in questions]
        first, made = len(self._begin) - 1, []
        for chosen in batches([len(head) for head in heads], batch_size, self.logit_bytes):
            for i in chosen:
                self._check_target(tails[i])
            ids, mask = padded([heads[i] for i in chosen], torch.device("cpu"))
            written, _ = padded([[*self._begin, *tails[i]] for i in chosen], torch.device("cpu"))
            inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written}
            marks = [(row, row, first + at, t) for row, i in enumerate(chosen) for at, t in enumerate(tails[i])]
            last = [len(heads[i]) - 1 for i in chosen]
            owners, rows, places, targets = torch.tensor(marks).T
            made.append(AnswerBatch(inputs, list(chosen), owners, rows, places, targets, last))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        logits: torch.Tensor = self.run(batch.numbers, **inputs, use_cache=False).logits
        return logits[batch.rows.to(self.device), batch.places.to(self.device)].float()

    def encode_target(self, text: str) -> list[int]:
        """Token ids of a text that the decoder is to write, without what it begins and ends with."""
        known = self._target_ids.get(text)
        if known is None:
            ids = self.with_rows(list(self.tokenizer(text_target=text, verbose=False).input_ids))
            while ids and ids[-1] in self.end_tokens:
                ids.pop()
            forced_first = self._begin[1:]
            known = self._remember(self._target_ids, text, tuple(ids[1:] if ids[:1] == forced_first else ids))
        return list(known)

    # ------------------------------------------------------------------ the network

    @cached_property
    def _target_ids(self) -> dict[str, tuple[int, ...]]:
        return {}

    @cached_property
    def _begin(self) -> list[int]:
        """What the decoder begins with: its start token, and a first token where the model is forced to one."""
        config, settings = self.model.config, getattr(self.model, "generation_config", None)
        start, first = (
            getattr(settings, key, None) if getattr(settings, key, None) is not None else getattr(config, key, None)
            for key in ("decoder_start_token_id", "forced_bos_token_id")
        )
        if start is None:
            raise InputError("its config has no decoder_start_token_id", where=self.name, fix="Copy the base's config")
        return [start] if first is None else [start, first]

    @property
    def _room(self) -> int:
        """Tokens the decoder can write at most."""
        return self.context - len(self._begin)

    def _heads(self, prompts: Sequence[str]) -> list[list[int]]:
        heads = self.encode_all(prompts)
        check_length(self, heads, unread=1)
        return heads

    def _encoded_batch(
        self, heads: Sequence[Sequence[int]], requests: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's states of some prompts, (rows, width, hidden), and their mask."""
        ids, mask = padded(heads, self.device)
        with self.passing(requests):
            states: torch.Tensor = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        return states, mask

    def _read(
        self, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(place, logits) of every pair: at each of the tail's tokens and behind them, (tokens + 1, vocabulary).

        Prompts that are alike are read once.
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        for tail in tails:
            self._check_target(tail)
        groups: dict[tuple[Hashable, tuple[int, ...]], list[int]] = {}
        for place, head in enumerate(heads):
            groups.setdefault((self.alike(place), tuple(head)), []).append(place)
        unique = list(groups.values())
        first = len(self._begin) - 1
        with torch.inference_mode():
            for rows in batches([len(heads[places[0]]) for places in unique], batch_size, self.logit_bytes):
                firsts = [unique[row][0] for row in rows]
                states, mask = self._encoded_batch([heads[first] for first in firsts], firsts)
                pairs = [(line, place) for line, row in enumerate(rows) for place in unique[row]]
                lengths = [len(self._begin) + len(tails[place]) for _, place in pairs]
                for chunk in batches(lengths, batch_size, self.logit_bytes):
                    lines = torch.tensor([pairs[at][0] for at in chunk], device=self.device)
                    ids, _ = padded([[*self._begin, *tails[pairs[at][1]]] for at in chunk], self.device)
                    # Padding stands behind every token that matters, so the causal mask alone keeps it out.
                    logits = self.run(
                        [pairs[at][1] for at in chunk],
                        encoder_outputs=BaseModelOutput(last_hidden_state=states[lines]),
                        attention_mask=mask[lines],
                        decoder_input_ids=ids,
                        use_cache=False,
                    ).logits.float()
                    for line, at in enumerate(chunk):
                        place = pairs[at][1]
                        yield place, logits[line, first : first + len(tails[place]) + 1]

    def _check_target(self, tail: Sequence[int]) -> None:
        if len(tail) > self._room:
            raise InputError(
                f"its answer has {len(tail)} tokens, and the decoder's context has {self.context}",
                where=self.name,
                fix="Shorten it",
            )

    def _layers(self, requests: Sequence[int], ids: torch.Tensor, mask: torch.Tensor) -> Sequence[torch.Tensor]:
        """Of the encoder, which is what has read the prompt."""
        with self.passing(requests):
            states: Sequence[torch.Tensor] = self.model.get_encoder()(
                input_ids=ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states
        return states


class _DecodedRows(BatchRows):
    """The rows of a batch whose prompts the encoder has read.

    Args:
        model: who writes.
        heads: the prompts' token ids.
        requests: the prompts' numbers.
    """

    def __init__(self, model: EncoderDecoder, heads: Sequence[Sequence[int]], requests: Sequence[int]) -> None:
        import torch

        self._model = model
        self._states, self._mask = model._encoded_batch(heads, requests)
        self._requests = list(requests)
        self._begin = torch.tensor([model._begin] * len(heads), device=model.device)
        self._memory: Any = None

    def step(self, new: torch.Tensor | None) -> torch.Tensor:
        """See `BatchRows.step`."""
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        from genepool.tasks.roomy_cache import roomy

        result = self._model.run(
            self._requests,
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
            attention_mask=self._mask,
            decoder_input_ids=self._begin if new is None else new,
            past_key_values=self._memory,
            use_cache=True,
        )
        if new is None and isinstance(result.past_key_values, EncoderDecoderCache):
            result.past_key_values.self_attention_cache = roomy(result.past_key_values.self_attention_cache)
        self._memory = result.past_key_values
        logits: torch.Tensor = result.logits[:, -1]
        return logits

    def keep(self, lines: Sequence[int]) -> bool:
        """See `BatchRows.keep`."""
        import torch
        from transformers import EncoderDecoderCache

        from genepool.tasks.roomy_cache import RoomyCache, is_plain

        memory = self._memory
        if not isinstance(memory, EncoderDecoderCache):
            return False
        if not isinstance(memory.self_attention_cache, RoomyCache) or not is_plain(memory.cross_attention_cache):
            return False
        kept = torch.tensor(lines, device=self._mask.device)
        self._states, self._mask = self._states.index_select(0, kept), self._mask.index_select(0, kept)
        self._requests = [self._requests[line] for line in lines]
        memory.batch_select_indices(kept)
        return True
