"""A causal language model in memory, made from any `Weights`; other weights can be put into it in place.

No remote code and no pickles: the architecture comes from config.json through transformers, the tensors from
`Weights`. Candidates of a search are judged by copying their tensors into one resident model.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


class LanguageModel:
    """A model and its tokenizer, ready to be asked. Made by `LanguageModel.load`.

    Attributes:
        name: of the weights it holds.
        model: transformers' model, in evaluation mode.
        tokenizer: transformers' tokenizer.
    """

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._weights = weights
        self._targets = _targets(model)

    @classmethod
    def load(
        cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32", trust_remote_code: bool = False
    ) -> LanguageModel:
        """Builds the model that `weights.config` describes, with the tensors of `weights`.

        Args:
            weights: what to load; needs a folder with config and tokenizer.
            device: torch's name of the device.
            dtype: what it computes in.
            trust_remote_code: run Python code that came with the model. Off unless the user asks.

        Raises:
            InputError: no config or tokenizer, an architecture transformers does not know, or tensors that do not
                fit it.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        folder = _folder(weights)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if weights.config is not None:
                config = type(config).from_dict({**config.to_dict(), **_own_settings(weights.config)})
            architecture = AutoModelForCausalLM._model_mapping[type(config)]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"no causal language model can be built from its config ({_short(error)})",
                where=folder,
                fix="Name a text generation model in Hugging Face's layout",
            ) from None
        kind = getattr(torch, dtype)
        # Cloned, because transformers may keep the very tensors, and `assign` writes into the model's.
        tensors = {name: _cast(weights.read(name), kind) for name in weights.names()}
        # transformers prints its own report of what did not fit; ours is one line.
        with redirect_stderr(io.StringIO()):
            try:
                model, report = architecture.from_pretrained(
                    None, config=config, state_dict=tensors, dtype=kind, output_loading_info=True
                )
            except RuntimeError as error:
                raise InputError(
                    f"the tensors do not fit the model of config.json ({_short(error)})",
                    where=weights.name,
                    fix="Config and weights come from different models",
                ) from None
        for what, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
            if keys:
                raise InputError(
                    f"{what} tensors: {', '.join(sorted(keys)[:3])}{'...' if len(keys) > 3 else ''}",
                    where=weights.name,
                    fix="Config and weights come from different models",
                )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"no usable tokenizer ({_short(error)})", where=folder, fix="Copy the base's") from None
        return cls(weights, model.to(device).eval(), tokenizer)

    @property
    def name(self) -> str:
        """Of the weights the model holds now."""
        return self._weights.name

    @property
    def fingerprint(self) -> str:
        """Of the weights the model holds now."""
        return self._weights.fingerprint()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = self.model.device
        return device

    def assign(self, weights: Weights) -> None:
        """Copies other tensors into the model in place; it then is that model, by name and fingerprint.

        Raises:
            InputError: the tensors are not those of this model's architecture.
        """
        import torch

        missing = set(self._targets) - set(weights.names()) - set(weights.aliases())
        if missing:
            raise InputError(f"lacks the tensor {sorted(missing)[0]}", where=weights.name, fix="Load it as a new model")
        with torch.no_grad():
            for name, target in self._targets.items():
                value = weights.read(name)
                if value.shape != target.shape:
                    raise InputError(
                        f"{name} is {list(value.shape)} where the model has {list(target.shape)}",
                        where=weights.name,
                        fix="Load it as a new model",
                    )
                target.copy_(value)
        self._weights = weights

    # ------------------------------------------------------------------ text

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens the tokenizer puts before one."""
        ids: list[int] = list(self.tokenizer(text).input_ids)
        # Some tokenizers close every text with an end token; a prompt must stay open.
        while ids and ids[-1] in self.end_tokens:
            ids.pop()
        return ids or [self.tokenizer.bos_token_id or 0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages put through the tokenizer's chat template, open for the model's answer.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template", where=self.name, fix="Set `chat_template: false` for the task"
            )
        text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        settings = getattr(self.model, "generation_config", None)
        found: set[int] = set()
        for source in (getattr(settings, "eos_token_id", None), self.tokenizer.eos_token_id):
            found.update(source if isinstance(source, list) else [] if source is None else [source])
        return frozenset(found)

    @cached_property
    def context(self) -> int:
        """The largest number of tokens the model was made for."""
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if value := getattr(self.model.config, key, None):
                return int(value)
        return 10**9

    @cached_property
    def one_tokenisation(self) -> bool:
        """Whether every text has exactly one sequence of tokens: each token but the special ones is one character.

        Then an answer that differs in a token differs in its text, and comparing tokens settles exact match.
        """
        special = set(self.tokenizer.all_special_ids)
        vocabulary = self.tokenizer.get_vocab()
        texts = [self.tokenizer.decode([number]) for number in vocabulary.values() if number not in special]
        return len(vocabulary) < 10_000 and all(len(text) == 1 for text in texts) and len(set(texts)) == len(texts)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of logits per position."""
        return int(self.model.get_output_embeddings().weight.shape[0])


def _targets(model: Any) -> dict[str, torch.Tensor]:
    """The model's own tensors by name, each storage once."""
    targets: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            targets[name] = parameter.data
    return targets


def _cast(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return tensor.to(kind, copy=True) if tensor.is_floating_point() else tensor.clone()


def _own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a merge changes in a config: the depth and whether the head is tied."""
    keys = ("num_hidden_layers", "n_layer", "num_layers", "layer_types", "tie_word_embeddings")
    return {key: config[key] for key in keys if key in config}


def _folder(weights: Weights) -> Path:
    if weights.folder is None or not (weights.folder / "config.json").is_file():
        raise InputError("no config.json beside the weights", where=weights.name, fix="Name a whole model folder")
    return weights.folder


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
