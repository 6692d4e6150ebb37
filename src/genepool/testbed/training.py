"""Making, training and scoring the testbed's models with torch, transformers and PEFT.

Every weight starts from its own (seed, name), every batch from its own (seed, step), and every thread computes with
one torch thread, so the same seed gives the same bits however many cores there are. Used by `builder` only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from genepool.seeding import torch_generator
from genepool.testbed.data import StringExample
from genepool.testbed.schedule import Phase, Schedule
from genepool.testbed.tokenizer import END_ID, PAD_ID, VOCABULARY, encode, fast_tokenizer
from genepool.training import Optimisation, Optimiser, fit

_IGNORED = -100  # what cross_entropy leaves out by default
Batches = Callable[[int, int], list[StringExample]]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread an operation, and none of the libraries' own bars and warnings, while the block lasts.

    Constructors draw from torch's global generator; the caller gets it back as it was.
    More threads would meet at a barrier in every operation, which makes a run several times slower as soon as
    another process wants a core (measured), and their number changes the rounding.
    """
    from transformers.utils import logging

    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()


def new_base(schedule: Schedule, seed: int) -> Any:
    """An untrained `LlamaForCausalLM` in float32 with tied embeddings.

    It starts from a normal of 0.1 for the embeddings and of half the inverse square root of the width elsewhere: at
    650 steps the usual 0.02 everywhere leaves `reverse` at .66 and `sort` at .53 under the pre-training tag; this
    start takes them to .98 and .92.
    """
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=schedule.hidden,
        intermediate_size=schedule.feed_forward,
        num_hidden_layers=schedule.layers,
        num_attention_heads=schedule.heads,
        num_key_value_heads=schedule.heads,
        max_position_embeddings=schedule.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=None, eos_token_id=END_ID, pad_token_id=PAD_ID, do_sample=False, max_new_tokens=16
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                spread = 0.1 if "embed" in name else 0.5 * schedule.hidden**-0.5
                parameter.normal_(0.0, spread, generator=torch_generator(seed, "init", name))
    return model


def load_base(folder: Path) -> Any:
    """The base back from its folder, bit for bit."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def with_adapter(base: Any, schedule: Schedule, seed: int, name: str) -> Any:
    """A copy of `base` under a fresh PEFT LoRA adapter on all its linear layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=schedule.lora_rank,
        lora_alpha=schedule.lora_alpha,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    model = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_A" in parameter_name:
                bound = parameter.shape[1] ** -0.5  # PEFT's own start: Kaiming uniform with a = sqrt(5)
                generator = torch_generator(seed, "lora", name, parameter_name)
                parameter.uniform_(-bound, bound, generator=generator)
            elif "lora_B" in parameter_name:
                parameter.zero_()
    return model


def save_model(model: Any, folder: Path, schedule: Schedule) -> None:
    """A complete Hugging Face folder: config, generation config, safetensors, tokenizer."""
    model.save_pretrained(folder)
    fast_tokenizer(schedule.context).save_pretrained(folder)


def save_adapter(model: Any, folder: Path, base: Path) -> None:
    """A PEFT folder.

    Args:
        base: where the base will be, as an absolute path: PEFT resolves a relative one from wherever the reader's
            process happens to run.
    """
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in


def train(
    model: Any,
    batches: Batches,
    phase: Phase,
    *,
    after_step: Callable[[], None],
    pool: ThreadPoolExecutor | None = None,
) -> None:
    """Trains the parameters of `model` that ask for a gradient, in place, on the answers of `batches`.

    Args:
        batches: called with (step, size), once for each step in order.
        after_step: called after each step; what it raises ends the training.
        pool: computes the shards of a batch side by side; without one they run one after the other, with the
            same result.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(step: int) -> list[torch.Tensor]:
        ids, labels = _tensors(batches(step, phase.batch))
        count = int((labels != _IGNORED).sum())

        def of_shard(part: int) -> tuple[torch.Tensor, ...]:
            logits = model(input_ids=ids[part :: phase.shards], use_cache=False).logits
            wanted = labels[part :: phase.shards]
            loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / count
            return torch.autograd.grad(loss, parameters)

        first, *others = (pool.map if pool else map)(of_shard, range(phase.shards))
        for at, gradient in enumerate(first):
            for other in others:
                gradient.add_(other[at])
        return list(first)

    model.train()
    optimise(parameters, gradients, phase, after_step)
    model.eval()


def optimise(
    parameters: Sequence[torch.nn.Parameter],
    gradients: Callable[[int], Sequence[torch.Tensor]],
    phase: Phase,
    after_step: Callable[[], None],
) -> None:
    """Trains over `phase`, in place: what every model of every testbed is trained by.

    Args:
        gradients: called with the step, once for each in order; gives one gradient per parameter.
        after_step: called after each step; what it raises ends the training.
    """
    settings = Optimisation(
        phase.steps, phase.learning_rate, phase.warmup, floor=0.05, betas=(0.9, 0.98), weight_decay=0.01
    )

    def put(step: int) -> float:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient
        return 0.0

    named = {str(number): parameter for number, parameter in enumerate(parameters)}
    fit(Optimiser(named, settings), put, lambda _: after_step())


def exact_match(model: Any, items: Sequence[StringExample], *, batch: int = 256) -> float:
    """The share of `items` whose whole answer and end token are each the most likely next token.

    Teacher-forced: one forward pass a batch. Greedy decoding gets an item right exactly when this does.
    """
    right = 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(items), batch):
            ids, labels = _tensors(items[start : start + batch])
            guesses = model(input_ids=ids, use_cache=False).logits.argmax(-1)
            right += int(((guesses == labels) | (labels == _IGNORED)).all(dim=1).sum())
    return right / len(items)


def _tensors(examples: Sequence[StringExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the wanted next token at each place, both (examples, longest); only answers are wanted.

    Padding goes behind, where causal attention never looks back from, so no mask is needed.
    """
    rows, wanted = [], []
    for example in examples:
        prompt, answer = encode(example.prompt), encode(example.answer)
        rows.append(prompt + answer)
        inside = [_IGNORED] * (len(prompt) - 1)
        for start, stop in example.learned:
            inside[start - 1 : stop - 1] = prompt[start:stop]
        wanted.append(inside + answer + [END_ID])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [_IGNORED] * (longest - len(row)) for row in wanted])
    return ids, labels
