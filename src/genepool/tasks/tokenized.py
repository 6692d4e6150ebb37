"""A network that reads texts through a tokenizer; what was tokenized once is remembered.

The kinds of `models` that read texts build on this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.bounded import TEXT_BYTES, bounded
from genepool.errors import InputError, first_sentence
from genepool.tasks.decoding import DEFAULT_BATCH, batches, check_length
from genepool.tasks.network import Network
from genepool.tasks.pretrained import load_tokenizer
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

# Texts whose tokens are remembered, each way: some tens of MB at most.
_REMEMBERED = 50_000
# Texts that are tokenized at once: for a moment a tokenizer keeps far more of them than their tokens.
_AT_ONCE = 1_000


def templated(tokenizer: Any, messages: Sequence[Mapping[str, str]], where: str, *, opened: bool = True) -> str:
    """Messages put through a tokenizer's chat template.

    Args:
        tokenizer: transformers' tokenizer.
        messages: the conversation.
        where: the model, for errors.
        opened: open for the model's answer; else the last message stays open to be continued.

    Raises:
        InputError: the tokenizer has no chat template, or its template refuses these messages or takes too long.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "the tokenizer has no chat template", where=where, fix="Set `chat_template: false` for the task"
        )
    ending = {"add_generation_prompt": opened, "continue_final_message": not opened}
    fix = "Correct it, or set `chat_template: false` for the task"
    with bounded("the chat template", where=where, fix=fix, memory=TEXT_BYTES):
        try:
            text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **ending)
        except MemoryError:
            raise
        # A template is a program: it may fail in every way that one can.
        except Exception as error:
            raise InputError(
                f"the chat template refuses the messages ({first_sentence(error)})",
                where=where,
                fix="Leave out what it does not support, such as a system message",
            ) from None
    return text


class TokenizedNetwork(Network):
    """A network and its tokenizer.

    Args:
        weights, model: as for `Network`.
        tokenizer: transformers' tokenizer.

    Attributes:
        tokenizer: the tokenizer.
    """

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        super().__init__(weights, model)
        self.tokenizer = tokenizer
        self._encoded: dict[str, tuple[int, ...]] = {}
        self._decoded: dict[tuple[int, ...], str] = {}

    @classmethod
    def _prepared_by(cls, weights: Weights) -> tuple[Any, ...]:
        return (load_tokenizer(weights),)

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens the tokenizer adds; none for a text that has none."""
        known = self._encoded.get(text)
        if known is None:
            known = self._remember(self._encoded, text, tuple(self._encode(text)))
        return list(known)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens the model was made to read around one."""
        return self.encode_whole(text)

    def encode_all(self, prompts: Sequence[str]) -> list[list[int]]:
        """As `encode`, of many prompts."""
        self.encode_ahead(prompts)
        return [self.encode(prompt) for prompt in prompts]

    def encode_ahead(self, texts: Iterable[str]) -> None:
        """Remembers the tokens of texts that will be wanted one by one: at once they take a fraction of the time."""
        new = [text for text in dict.fromkeys(texts) if text not in self._encoded][:_REMEMBERED]
        if len(self._encoded) + len(new) > _REMEMBERED:
            # Else what comes first would be forgotten while the rest is read.
            self._encoded.clear()
        for start in range(0, len(new) if len(new) > 1 else 0, _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            for text, ids in zip(some, self.tokenizer(some, verbose=False).input_ids, strict=True):
                self._remember(self._encoded, text, tuple(self._finished(text, self.with_rows(list(ids)))))

    def _encode(self, text: str) -> list[int]:
        return self._finished(text, self.with_rows(list(self.tokenizer(text, verbose=False).input_ids)))

    def read_alone(self, text: str) -> list[int]:
        """Token ids of a text without the special tokens that the tokenizer adds."""
        return self.with_rows(list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids))

    def with_rows(self, ids: list[int]) -> list[int]:
        """The same tokens, all of which the embedding has.

        A tokenizer may know more than its model, which is no fault as long as no text has such a token.

        Raises:
            InputError: one has none.
        """
        if ids and (largest := max(ids)) >= self.token_rows:
            raise InputError(
                f"its embedding has {self.token_rows} rows, and a text has the token {largest} "
                f"({self.tokenizer.decode([largest])!r}); the ids of its tokenizer go up to "
                f"{max(self.tokenizer.get_vocab().values())}",
                where=self.title,
                fix="Put the tokenizer beside it that it was trained with",
            )
        return ids

    @cached_property
    def token_rows(self) -> int:
        """Rows of the embedding of tokens; beyond any number where that cannot be told."""
        try:
            weight = getattr(self.model.get_input_embeddings(), "weight", None)
        except (AttributeError, NotImplementedError):
            weight = None
        return int(weight.shape[0]) if weight is not None and weight.dim() == 2 else 10**9

    def _finished(self, text: str, ids: list[int]) -> list[int]:
        """The tokens of a text as the model is given them, of those that its tokenizer makes."""
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        key = tuple(ids)
        known = self._decoded.get(key)
        if known is None:
            known = self._remember(self._decoded, key, str(self.tokenizer.decode(list(ids), skip_special_tokens=True)))
        return known

    @staticmethod
    def _remember(known: dict[Any, Any], key: Any, value: Any) -> Any:
        """A search asks the same examples hundreds of times; tokenizing them again would take a third of it."""
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = value
        return value

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages put through the tokenizer's chat template, open for the model's answer.

        Raises:
            InputError: the tokenizer has no chat template, or its template refuses these messages.
        """
        return templated(self.tokenizer, messages, self.name)

    @cached_property
    def context(self) -> int:
        """The largest number of tokens the model was made for."""
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if value := getattr(self.model.config.get_text_config(), key, None):
                return int(value)
        return 10**9

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; places are tokens."""
        import torch

        heads = self.encode_all(prompts)
        check_length(self, heads, unread=1)
        found: dict[int, tuple[torch.Tensor, ...]] = {}
        with torch.inference_mode():
            for rows in batches([len(head) for head in heads], batch_size, self._token_bytes):
                ids, mask = padded([heads[row] for row in rows], self.device)
                layers = self._layers(rows, ids, mask)
                for line, row in enumerate(rows):
                    found[row] = tuple(layer[line, : len(heads[row])].float().cpu() for layer in layers)
        return [found[row] for row in range(len(heads))]

    @property
    def _token_bytes(self) -> int:
        """Bytes of one token's hidden state, which bounds the batches of models that have no logits per token."""
        return 4 * int(getattr(self.model.config.get_text_config(), "hidden_size", 0) or 4096)

    def _layers(self, requests: Sequence[int], ids: torch.Tensor, mask: torch.Tensor) -> Sequence[torch.Tensor]:
        """Hidden states of a batch, the embedding first: (rows, width, hidden) each."""
        states: Sequence[torch.Tensor] = self.run(
            requests, input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        return states


class WritingNetwork(TokenizedNetwork):
    """A network that also writes texts, token by token."""

    @property
    def banned(self) -> tuple[tuple[int, ...], ...]:
        """Rows of tokens that an answer must not hold."""
        return ()

    @property
    def backspace(self) -> int | None:
        """The token that takes the one before it back; None where there is none."""
        return None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        settings = getattr(self.model, "generation_config", None)
        found: set[int] = set()
        for source in (getattr(settings, "eos_token_id", None), self.tokenizer.eos_token_id):
            found.update(source if isinstance(source, list) else [] if source is None else [source])
        return frozenset(found)

    @cached_property
    def one_tokenisation(self) -> bool:
        """Whether every text has exactly one sequence of tokens: each token but the special ones is one character.

        Then an answer that differs in a token differs in its text, and comparing tokens settles exact match.
        """
        special = set(self.tokenizer.all_special_ids)
        vocabulary = self.tokenizer.get_vocab()
        # Larger ones are never of characters alone; tidied spaces would make two texts of tokens one.
        if len(vocabulary) >= 10_000 or getattr(self.tokenizer, "clean_up_tokenization_spaces", False):
            return False
        texts = [self.tokenizer.decode([number]) for number in vocabulary.values() if number not in special]
        return all(len(text) == 1 for text in texts) and len(set(texts)) == len(texts)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of logits per position."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def logit_bytes(self) -> int:
        """Bytes of the logits of one token, which bound the batches."""
        return 4 * self.vocabulary_size


def padded(rows: Sequence[Sequence[int]], device: torch.device, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right, and the mask that keeps the padding out: (rows, width) each."""
    import torch

    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = torch.tensor(row)
        mask[line, : len(row)] = 1
    return ids.to(device), mask.to(device)
