"""A model in memory as lm-evaluation-harness asks one: likelihoods, rolling likelihoods and written answers.

Tokens, truncation and stops are those of lm-eval's own runner for Hugging Face models, so that answers are equal; the
computing is ours. Imports lm_eval at its top and is itself imported only where a task of lm-eval is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM

from genepool.errors import InputError
from genepool.tasks.decoding import Decoding, generate_tokens
from genepool.tasks.likelihoods import token_likelihoods
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.tokenized import templated

# lm-eval's default number of tokens to write, HFLM.max_gen_toks in 0.4.
_WRITTEN = 256


class LmEvalModel(TemplateLM):  # type: ignore[misc]
    """Answers lm-eval's requests with a model of ours.

    Args:
        model: who is asked.
        batch_size: rows computed at once.
    """

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        super().__init__()
        self._model, self._batch_size = model, batch_size

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; it also stands before one that has nothing before it."""
        tokenizer = self._model.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id or 0)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: the begin token, else the end token."""
        begin = self._model.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Part of the keys of lm-eval's own caches, which are not used here."""
        return self._model.fingerprint

    @property
    def max_length(self) -> int:
        """The model's context in tokens."""
        return self._model.context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; with the special tokens the tokenizer puts before a text unless they are not to be added."""
        if add_special_tokens is False:
            own: list[int] = self._model.read_alone(string)
            return own
        return self._model.encode_whole(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the tokenizer's template writes them."""
        return templated(self._model.tokenizer, chat_history, self._model.name, opened=add_generation_prompt)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each continuation after its context."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        heads, tails = [], []
        for _texts, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise InputError(
                    f"the continuation of {len(continuation)} tokens does not fit the context of {self.max_length}",
                    where=self._model.name,
                    fix="Leave this task out for this model",
                )
            # What is too long loses its beginning, as lm-eval's own runner has it: the last token is never read.
            kept = [*context, *continuation][-(self.max_length + 1) :]
            cut = len(kept) - len(continuation)
            heads.append(kept[: max(cut, 1)])
            tails.append(kept[max(cut, 1) :])
        found = token_likelihoods(self._model, heads, tails, self._batch_size)
        return [(one.logprob, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, longer ones in windows of the model's context."""
        owners: list[int] = []
        windows: list[tuple[None, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                owners.append(number)
                windows.append((None, *utils.make_disjoint_window(pair)))
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes until one of the request's stops."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        written: dict[int, str] = {}
        for numbers in groups.values():
            decoding = self._decoding(requests[numbers[0]].args[1])
            room = self.max_length - decoding.max_new_tokens
            if room <= 0:
                raise InputError(
                    f"the task needs {decoding.max_new_tokens} new tokens, and the context has {self.max_length}",
                    where=self._model.name,
                    fix="Set max_gen_toks in the task's generation_kwargs",
                )
            texts = [requests[number].args[0] for number in numbers]
            heads = [(self.tok_encode(text) or [self.prefix_token_id])[-room:] for text in texts]
            # Drawn again for every repeat of a request, so the number is part of what a draw belongs to.
            keys = [f"{number}\x1f{text}" for number, text in zip(numbers, texts, strict=True)]
            answers = generate_tokens(self._model, heads, keys, decoding, self._batch_size)
            written.update((number, one.text) for number, one in zip(numbers, answers, strict=True))
        return [written[number] for number in range(len(requests))]

    def _decoding(self, asked: dict[str, Any]) -> Decoding:
        stops = asked.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        length = next(
            (asked[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in asked), _WRITTEN
        )
        temperature = float(asked.get("temperature") or 0.0) if asked.get("do_sample", True) else 0.0
        return Decoding(
            max_new_tokens=int(length),
            stop=tuple(stop for stop in stops if stop),
            temperature=temperature,
            top_p=float(asked.get("top_p") or 1.0),
        )
