"""transformers' networks and tokenizers made from any `Weights`: no remote code and no pickles.

The architecture comes from config.json through transformers, the tensors from `Weights`. The kinds of `models` that
transformers builds use this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, files_fault, first_sentence
from genepool.tasks.quantised import packed_network, quantised_network
from genepool.weights import Weights
from genepool.weights.quantised import quantised_by

if TYPE_CHECKING:
    import torch


def named_classes(config: Mapping[str, Any]) -> list[str]:
    """The classes that a config says its model is of; none where it says something else there."""
    named = config.get("architectures")
    return [str(one) for one in named] if isinstance(named, list) else []


def build_network(weights: Weights, kind: torch.dtype, auto: str, what: str, *, classes: bool = False) -> Any:
    """transformers' network of `weights.config` with the tensors of `weights`, on the processor.

    Args:
        weights: config and tensors.
        kind: what it computes in.
        auto: transformers' class that finds the architecture, such as "AutoModelForCausalLM".
        what: what is built, for errors, such as "causal language model".
        classes: it has a head of as many rows as the config's id2label names classes.

    Raises:
        InputError: no config, an architecture transformers does not know, or tensors that do not fit it.
    """
    import transformers
    from transformers import AutoConfig

    from genepool.weights.meta_model import building, oversized, read_config

    folder = model_folder(weights)
    if weights.config is not None and (many := oversized(weights.config)):
        raise InputError(f"says {many} that can be built", where=folder / "config.json", fix="Copy the base's")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if weights.config is not None:
            # A merge differs from the folder its config comes from: in depth, in what is tied, in what was chosen.
            config = read_config(type(config), weights.config)
        architecture = getattr(transformers, auto)._model_mapping[type(config)]
    except Exception as error:
        # A config's class checks it with errors of its own, and may stumble over any odd value.
        raise InputError(
            f"cannot be built as a {what} from its config ({first_sentence(error)})",
            where=folder,
            fix="Copy the base's" if classes else "Name a text generation model in Hugging Face's layout",
        ) from None
    if quantised_by(weights):
        with building(), _silent_transformers():
            return quantised_network(weights, architecture, config, kind)
    with building(), _silent_transformers():
        packed = packed_network(weights, architecture, kind)
    if packed is not None:
        return packed
    # Cloned, because transformers may keep the very tensors, and `assign` writes into the model's.
    tensors = {name: _cast(weights.read(name), kind) for name in weights.stored_names()}
    odd = files_fault(
        "transformers cannot build the model of config.json", where=weights.name, fix="Copy the config of its base"
    )
    with odd, building(), _silent_transformers():
        try:
            model, report = architecture.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=kind,
                output_loading_info=True,
                ignore_mismatched_sizes=classes,
            )
        except RuntimeError as error:
            raise InputError(
                f"the tensors do not fit the model of config.json ({first_sentence(error)})",
                where=weights.name,
                fix="Name a folder whose config and weights belong together",
            ) from None
    _check_shapes(report.get("mismatched_keys") or (), len(config.id2label or ()), weights.name)
    for verb, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if keys:
            raise InputError(
                f"{verb} tensors: {', '.join(sorted(keys)[:3])}{'...' if len(keys) > 3 else ''}",
                where=weights.name,
                fix="Name a folder whose config and weights belong together",
            )
    return model.eval()


def try_network(network: Any, name: str, *inputs: str) -> None:
    """Reads one token: an odd value of a config may build a network that cannot compute.

    Args:
        network: on any device.
        name: the model, for errors.
        inputs: the arguments that take the numbers of tokens.

    Raises:
        InputError: it cannot.
    """
    import torch

    token = torch.zeros(1, 1, dtype=torch.long, device=network.device)
    fix = "Copy the config of its base"
    with torch.inference_mode(), files_fault("cannot compute with its config.json", where=name, fix=fix):
        network(**dict.fromkeys(inputs, token))


def use_generation_config(model: Any, folder: Path) -> None:
    """Gives a network the generation_config.json beside it, which may name more end tokens than config.json does.

    Raises:
        InputError: the file is there and cannot be used.
    """
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return
    with files_fault("cannot be used", where=folder / "generation_config.json", fix="Copy the base's"):
        model.generation_config = GenerationConfig.from_pretrained(folder)


def load_tokenizer(weights: Weights) -> Any:
    """The tokenizer beside the weights, with their chat template where they have one.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    from transformers import AutoTokenizer

    folder = weights.tokenizer_folder or model_folder(weights)
    with files_fault("has no usable tokenizer", where=folder, fix="Copy the base's"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            known, special = set(tokenizer.get_vocab()), set(tokenizer.all_special_tokens)
            # Odd settings are first looked at when a text is read.
            tokenizer.decode(tokenizer("a", verbose=False).input_ids, skip_special_tokens=True)
        except ValueError as error:
            # transformers lists all that it tried.
            raise ValueError("no file says its tokens") if "backend tokenizer" in str(error) else error from None
    # transformers makes an empty tokenizer where a folder has none.
    if known <= special:
        raise InputError("has no tokenizer", where=weights.name, fix="Copy the tokenizer of its base to it")
    if weights.chat_template is not None:
        tokenizer.chat_template = weights.chat_template
    return tokenizer


def model_folder(weights: Weights) -> Path:
    """The folder with the config.

    Raises:
        InputError: there is none.
    """
    if weights.folder is None or not (weights.folder / "config.json").is_file():
        raise InputError("has no config.json beside the weights", where=weights.name, fix="Name a whole model folder")
    return weights.folder


def _check_shapes(mismatched: Collection[Any], classes: int, where: str) -> None:
    """Refuses tensors of other shapes than the config's; a head of other classes than id2label names is told so."""
    for name, stored, expected in sorted(mismatched, key=lambda one: str(one[0])):
        if expected[0] == classes != stored[0] and stored[1:] == expected[1:]:
            raise InputError(
                f"id2label names {classes} classes, and the head {name} has {stored[0]}",
                where=f"{where}:config.json",
                fix="Correct id2label, or copy the config.json the weights came with",
            )
        raise InputError(
            f"the tensors do not fit the model of config.json ({name} is {list(stored)}, expected {list(expected)})",
            where=where,
            fix="Name a folder whose config and weights belong together",
        )


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


def _cast(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return tensor.to(kind, copy=True) if tensor.is_floating_point() else tensor.clone()
