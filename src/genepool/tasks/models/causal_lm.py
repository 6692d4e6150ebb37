"""A causal language model: it writes after a prompt, and tells how likely a text is after one.

Any architecture that transformers builds with `AutoModelForCausalLM`. `decoding` and `likelihoods` ask it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, text_batches
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, Forced, Written, forced_answers, generate
from genepool.tasks.likelihoods import ContinuationLikelihood, loglikelihoods
from genepool.tasks.models import Capability, last_kind
from genepool.tasks.pretrained import build_network, model_folder, try_network, use_generation_config
from genepool.tasks.tokenized import WritingNetwork
from genepool.weights import Weights
from genepool.weights.control import Control

if TYPE_CHECKING:
    import torch


@last_kind
class LanguageModel(WritingNetwork):
    """A causal language model and its tokenizer, ready to be asked."""

    kind = "a causal language model"
    can: ClassVar[frozenset[Capability]] = frozenset({"text", "likelihoods", "hidden states"})

    _watched = False

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        super().__init__(weights, model, tokenizer)
        self._control = weights.control

    def assign(self, weights: Weights) -> None:
        """See `Model.assign`; it is asked as these weights are from now on."""
        super().assign(weights)
        self._control = weights.control

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Whatever no other kind holds: transformers tells when it is loaded."""
        return True

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        model = build_network(weights, kind, "AutoModelForCausalLM", "causal language model")
        use_generation_config(model, model_folder(weights))
        try_network(model, weights.name, "input_ids")
        return model

    # ------------------------------------------------------------------ what it is asked

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`."""
        return generate(self, prompts, keys, decoding, batch_size)

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        return text_batches(self, questions, batch_size, closed=closed, packed=packed)

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        begins = {} if "position_ids" in inputs else self.answers_begin(batch.last)
        # Before the first answer of the batch nothing is asked; with a large vocabulary, logits are most of the memory.
        spare = self.last_logits_only and not begins and not self._watched
        unread = int(batch.places.min()) if spare else 0
        spared = {"logits_to_keep": inputs["input_ids"].shape[1] - unread} if unread else {}
        logits: torch.Tensor = self.run(batch.numbers, **inputs, use_cache=False, **begins, **spared).logits
        return logits[batch.rows.to(self.device), (batch.places - unread).to(self.device)].float()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See `Network.watched`."""
        before, self._watched = self._watched, True
        try:
            yield
        finally:
            self._watched = before

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """See `Model.forced_answers`."""
        return forced_answers(self, prompts, answers, decoding, strip, batch_size)

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """See `Model.loglikelihoods`; prompts that are alike are read once."""
        return loglikelihoods(self, prompts, continuations, batch_size)

    # ------------------------------------------------------------------ text

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens the tokenizer puts before one and its control prefix."""
        prompt = self.encode_whole(text) or self.with_rows([self.tokenizer.bos_token_id or 0])
        prefix = "" if self._control is None else self._control.prefix
        return [*prompt, *self.control_tokens(prefix)] if prefix else prompt

    @contextmanager
    def asked_with(self, control: Control | None) -> Iterator[None]:
        """Inside, it is asked with these control tokens instead of its own."""
        own, self._control = self._control, control
        try:
            yield
        finally:
            self._control = own

    @property
    def control(self) -> Control | None:
        """The control tokens that it is asked with."""
        return self._control

    @property
    def banned(self) -> tuple[tuple[int, ...], ...]:
        """Rows of tokens that an answer must not hold: the texts that its control prefix bans."""
        return () if self._control is None else tuple(map(self.control_tokens, self._control.banned))

    @property
    def backspace(self) -> int | None:
        """The token that takes the one before it back; None where there is none.

        Raises:
            InputError: the tokenizer makes several tokens of it.
        """
        text = "" if self._control is None else self._control.backspace
        if not text:
            return None
        found = self.control_tokens(text)
        if len(found) > 1:
            raise InputError(
                f"its tokenizer makes {len(found)} tokens of the backspace {text!r}",
                where=self.title,
                fix="Name one token that answers do not hold, such as a reserved one",
            )
        return found[0]

    def control_tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a control prefix or a backspace.

        Raises:
            InputError: the tokenizer does not know all of it.
        """
        known = self._control_ids.get(text)
        if known is None:
            known = tuple(self.read_alone(text))
            unknown = self.tokenizer.unk_token_id
            if not known or (unknown is not None and unknown in known):
                raise InputError(
                    f"its tokenizer has no tokens for the control text {text!r}",
                    where=self.title,
                    fix="Name texts that it knows",
                )
            self._control_ids[text] = known
        return known

    @cached_property
    def _control_ids(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _finished(self, text: str, ids: list[int]) -> list[int]:
        # A chat template may have written the begin token that the tokenizer puts first as well.
        if (
            len(ids) > 1
            and ids[0] == ids[1] == self.tokenizer.bos_token_id
            and text.startswith(self.tokenizer.bos_token)
        ):
            del ids[0]
        # Some tokenizers close every text with an end token; a prompt must stay open.
        while ids and ids[-1] in self.end_tokens:
            ids.pop()
        return ids

    # ------------------------------------------------------------------ the network

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """Whether all it remembers of a prompt is keys and values, which several continuations can build on.

        A recurrent state is not: it would have read the padding before a short prompt too.
        """
        import torch

        from genepool.tasks.roomy_cache import is_plain

        with torch.inference_mode():
            result = self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=True)
        return is_plain(getattr(result, "past_key_values", None))

    @property
    def rows_may_leave(self) -> bool:
        """Whether rows that are written may be read in groups and leave one by one: nothing else remembers them."""
        return self.keeps_keys_and_values

    @cached_property
    def turns_at(self) -> int:
        """Tokens after which the network turns all keys of a batch otherwise, as LongRoPE does (Phi-3 128k).

        Beyond any context where it never does.
        """
        config = self.model.config.get_text_config()
        scaling = getattr(config, "rope_parameters", None) or {}
        if scaling.get("rope_type") != "longrope":
            return 10**9
        until = scaling.get("original_max_position_embeddings")
        return int(until or getattr(config, "original_max_position_embeddings", None) or self.context)

    @property
    def state_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, from the config; 0 where it does not say."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0) or 0
        size = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0)
        kept = getattr(config, "num_key_value_heads", None) or heads
        layers = getattr(config, "num_hidden_layers", 0) or 0
        return int(2 * layers * kept * size * self.model.dtype.itemsize)

    def answers_begin(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """Arguments that tell a network where the answers begin that it reads; empty where it treats all places alike.

        Args:
            places: of each row, the place of the prompt's last token, whose prediction is the answer's first token.
        """
        return {}

    @cached_property
    def last_logits_only(self) -> dict[str, int]:
        """The argument that spares the logits of all places but the last; empty where the model has none."""
        known = inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}
