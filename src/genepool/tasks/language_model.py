"""A causal language model in memory, made from any `Weights`; other weights can be put into it in place.

No remote code and no pickles: the architecture comes from config.json through transformers, the tensors from
`Weights`. Candidates of a search are judged by copying their tensors into one resident model.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.devices import check_device
from genepool.errors import InputError
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, generate
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


# Texts whose tokens are remembered, each way: some tens of MB at most.
_REMEMBERED = 50_000


class LanguageModel:
    """A model and its tokenizer, ready to be asked. Made by `LanguageModel.load`.

    Attributes:
        name: of the weights it holds.
        model: transformers' model, in evaluation mode.
        tokenizer: transformers' tokenizer.
    """

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._weights: Weights | None = weights
        self._targets = _targets(model)
        self._encoded: dict[str, tuple[int, ...]] = {}
        self._decoded: dict[tuple[int, ...], str] = {}

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
            InputError: no config or tokenizer, an architecture transformers does not know, tensors that do not fit
                it, or no such device.
        """
        import torch
        from transformers import AutoTokenizer

        folder = weights.tokenizer_folder or _folder(weights)
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise InputError(f"nothing computes in {dtype!r}", where=weights.name, fix="Say float32 or bfloat16")
        check_device(device)
        model = _built(weights, kind, trust_remote_code)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"no usable tokenizer ({_short(error)})", where=folder, fix="Copy the base's") from None
        if weights.chat_template is not None:
            tokenizer.chat_template = weights.chat_template
        return cls(weights, model.to(device).eval(), tokenizer)

    @property
    def name(self) -> str:
        """Of the weights the model holds now."""
        return self._held().name

    @property
    def fingerprint(self) -> str:
        """Of the weights the model holds now."""
        return self._held().fingerprint()

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

        named_alike = set(weights.names()) <= set(self._targets) <= {*weights.names(), *weights.aliases()}
        # Some architectures name or lay out their tensors otherwise in memory than on disk: transformers knows how.
        built = None if named_alike else _targets(_built(weights, self.model.dtype, False))
        for name in sorted(set(self._targets) ^ set(self._targets if built is None else built)):
            raise InputError(
                f"{'lacks' if name in self._targets else 'has'} the tensor {name}, unlike the model in memory",
                where=weights.name,
                fix="Load it as a new model",
            )
        for name, target in self._targets.items():
            shape = tuple(weights.info(name).shape if built is None else built[name].shape)
            if shape != tuple(target.shape):
                raise InputError(
                    f"{name} is {list(shape)} where the model has {list(target.shape)}",
                    where=weights.name,
                    fix="Load it as a new model",
                )
        # Until the last tensor is copied the model is neither the old one nor the new, and must not pass for either.
        self._weights = None
        with torch.no_grad():
            for name, target in self._targets.items():
                target.copy_(weights.read(name) if built is None else built[name])
        self._weights = weights

    @contextmanager
    def changing(self, names: Collection[str]) -> Iterator[dict[str, torch.nn.Parameter]]:
        """The parameters of these tensors, with gradients, to be changed in place inside the block.

        After it the model holds no weights anyone knows, until others are assigned.

        Raises:
            InputError: a tensor has another name or layout in memory than on the disk.
        """
        found: dict[str, torch.nn.Parameter] = dict(self.model.named_parameters())
        for name in names:
            if name not in found:
                raise InputError(
                    f"{name} has another name or layout in memory, so it cannot be trained here",
                    where=self.name,
                    fix="Leave `learn` out",
                )
        self._weights = None
        try:
            for name, parameter in found.items():
                parameter.requires_grad_(name in names)
            yield {name: found[name] for name in names}
        finally:
            for parameter in found.values():
                parameter.requires_grad_(False).grad = None

    def _held(self) -> Weights:
        if self._weights is None:
            raise InputError("a model left half assigned by an error", fix="Assign weights to it again")
        return self._weights

    # ------------------------------------------------------------------ text

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens the tokenizer puts before one."""
        return self.encode_whole(text) or [self.tokenizer.bos_token_id or 0]

    def encode_whole(self, text: str) -> list[int]:
        """Token ids as in `encode`, but none for a text that has none, which no model can read."""
        known = self._encoded.get(text)
        if known is None:
            known = self._remember(self._encoded, text, tuple(self._encode(text)))
        return list(known)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = list(self.tokenizer(text).input_ids)
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

    def generate(
        self, prompts: Sequence[str], decoding: Decoding | None = None, *, batch_size: int = DEFAULT_BATCH
    ) -> list[str]:
        """What the model writes after each prompt: what a task given as a Python callable asks with.

        Args:
            prompts: texts.
            decoding: how; greedy, at most 64 tokens, when None. Drawn answers belong to (seed, prompt).
            batch_size: prompts decoded at once.
        """
        return [one.text for one in generate(self, prompts, list(prompts), decoding or Decoding(), batch_size)]

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages put through the tokenizer's chat template, open for the model's answer.

        Raises:
            InputError: the tokenizer has no chat template, or its template refuses these messages.
        """
        from jinja2 import TemplateError

        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template", where=self.name, fix="Set `chat_template: false` for the task"
            )
        try:
            text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InputError(
                f"the chat template refuses the messages ({_short(error)})",
                where=self.name,
                fix="Leave out what it has no place for, such as a system message",
            ) from None
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
            if value := getattr(self.model.config.get_text_config(), key, None):
                return int(value)
        return 10**9

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

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """Whether all it remembers of a prompt is keys and values, which several continuations can build on.

        A recurrent state is not: it would have read the padding before a short prompt too.
        """
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        with torch.inference_mode():
            result = self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=True)
        state = getattr(result, "past_key_values", None)
        return (
            isinstance(state, DynamicCache)
            and hasattr(state, "batch_select_indices")
            and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in state.layers)
        )

    @cached_property
    def last_logits_only(self) -> dict[str, int]:
        """The argument that spares the logits of all places but the last; empty where the model has none."""
        known = inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}


def _built(weights: Weights, kind: torch.dtype, trust_remote_code: bool) -> Any:
    """transformers' model of `weights.config` with the tensors of `weights`, on the processor."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

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
    # A head that merely equals the embedding is a second name to `Weights`, but a tensor of its own to the model.
    tied = getattr(config.get_text_config(), "tie_word_embeddings", False)
    names = weights.names() if tied else (*weights.names(), *weights.aliases())
    # Cloned, because transformers may keep the very tensors, and `assign` writes into the model's.
    tensors = {name: _cast(weights.read(name), kind) for name in names}
    with _silent_transformers():
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
    if (folder / "generation_config.json").is_file():
        # It may name more end tokens than config.json does: those that end a turn of a chat.
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"cannot be used ({_short(error)})", where=folder / "generation_config.json", fix="Copy the base's"
            ) from None
    return model


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """transformers prints its own report of what did not fit, and a bar; ours is one line."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
