"""Models that can be asked: `open_model` reads a name and gives a `Source`, whose `load` gives a `Model`.

One kind of model a file beside this one, found by being there; a file imports torch and transformers only inside its
functions, because opening a source needs neither. `evaluate` and every command that asks a model go through here.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar

from genepool.errors import InputError
from genepool.saved_models import saved_model
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding
from genepool.weights import Weights, open_weights

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch, Question
    from genepool.tasks.decoding import Forced, Written
    from genepool.tasks.likelihoods import ContinuationLikelihood
    from genepool.tasks.used_skills import UsedSkills

# What a kind of model can be asked for; each stands for the methods of `Model` under its heading.
Capability = Literal["text", "likelihoods", "classes", "hidden states", "episodes", "forecasts"]
# What a model reads, and what a task's prompts are.
Input = Literal["text", "image"]


class Model(ABC):
    """A model in memory that can be asked, and whose tensors can be replaced in place.

    A question that is not among its kind's tasks ends in one clear error.

    Attributes:
        kind: what errors call such a model, with its article.
        can: what it can be asked for.
        reads: what its prompts are: texts, or paths of image files.
    """

    kind: ClassVar[str]
    can: ClassVar[frozenset[Capability]]
    reads: ClassVar[Input] = "text"

    @classmethod
    @abstractmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Whether a config.json describes a model of this kind; asked without torch, of headers alone."""

    @classmethod
    @abstractmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Model:
        """Builds the model that `weights.config` describes, with the tensors of `weights`.

        Args:
            weights: what to load; needs a folder with the config and whatever prepares its prompts.
            device: torch's name of the device.
            dtype: what it computes in.

        Raises:
            InputError: it lacks a file, its architecture is unknown, its tensors do not fit, there is no such device,
                or nothing computes in this type.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the weights the model holds now."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the weights the model holds now."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the model computes."""

    @abstractmethod
    def assign(self, weights: Weights) -> None:
        """Copies other tensors into the model in place; it then is that model, by name and fingerprint.

        Raises:
            InputError: the tensors are not those of this model's architecture.
        """

    @abstractmethod
    def changing(self, names: Collection[str]) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """The parameters of these tensors, with gradients, to be changed in place inside the block.

        After it the model holds no weights anyone knows, until others are assigned.

        Raises:
            InputError: a tensor has another name or layout in memory than on the disk.
        """

    # ------------------------------------------------------------------ text

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages put through the tokenizer's chat template, open for the model's answer.

        Raises:
            InputError: there is no chat template, or it refuses these messages.
        """
        raise InputError(
            f"{self.kind} has no chat template", where=self.name, fix="Set `chat_template: false` for the task"
        )

    def generate(
        self, prompts: Sequence[str], decoding: Decoding | None = None, *, batch_size: int = DEFAULT_BATCH
    ) -> list[str]:
        """What the model writes after each prompt: what a task given as a Python callable asks with.

        Args:
            prompts: texts.
            decoding: how; greedy, at most 64 tokens, when None. Drawn answers belong to (seed, prompt).
            batch_size: prompts decoded at once.
        """
        return [one.text for one in self.write(prompts, prompts, decoding or Decoding(), batch_size)]

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """What the model writes after each prompt, and how likely it found that.

        Args:
            prompts: texts.
            keys: one per prompt; the randomness of a drawn answer belongs to (seed, key).
            decoding: how.
            batch_size: prompts decoded at once.

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        self._cannot("generate text")

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """Judges expected answers by reading them in one pass instead of writing token by token.

        Args:
            prompts, answers: texts, one answer per prompt.
            decoding: how an answer would be written.
            strip: white space around an answer does not count.
            batch_size: rows computed at once.
        """
        self._cannot("generate text")

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """Which skills answer each prompt.

        Args:
            prompts: texts.
            answers: what the model wrote after each.

        Raises:
            InputError: it does not choose among skills.
        """
        raise InputError(
            f"{self.kind} does not choose among skills",
            where=self.name,
            fix="Leave --show-skills out, or name a composition that chooses by input",
        )

    # ------------------------------------------------------------------ likelihoods

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """Log-likelihood of each continuation after its prompt, natural logarithm, summed over its tokens.

        Raises:
            InputError: a prompt and its continuation are longer than the model's context.
        """
        self._cannot("tell how likely a text is")

    # ------------------------------------------------------------------ classes

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, in the order of `class_scores`."""
        self._cannot("classify")

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """Log-probability of every class for each prompt: shape (prompts, classes), float32, on the processor.

        Raises:
            InputError: a prompt is none that the model can read.
        """
        self._cannot("classify")

    # ------------------------------------------------------------------ answers to learn from

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """Prompts with their right answers, as tensors.

        Args:
            questions: what is asked.
            batch_size: questions in a batch, at most.
            closed: the end of an answer is part of it, for kinds that write.
            packed: several short questions share a row, for kinds that can tell them apart.

        Raises:
            InputError: an answer cannot be given by this kind of model, or a question is too long for it.
        """
        self._cannot("be shown answers")

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """What the model predicts for every target of a batch: (targets, choices), float32, before the softmax.

        With gradients where they are on.
        """
        self._cannot("be shown answers")

    # ------------------------------------------------------------------ hidden states

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """What stands behind the embedding and every layer, for each prompt.

        Returns:
            For each prompt one tensor a layer, the embedding first: shape (places, width), float32, on the processor;
            places are the prompt's tokens or the image's patches, without padding.
        """
        self._cannot("show its hidden states")

    def embeddings(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """One vector per prompt: the mean over its places of the last hidden state, shape (prompts, width)."""
        import torch

        return torch.stack([layers[-1].mean(0) for layers in self.hidden_states(prompts, batch_size)])

    # ------------------------------------------------------------------ forecasts

    def forecast(self, windows: torch.Tensor) -> torch.Tensor:
        """What follows each window: (n, lookback, variables) in, (n, horizon, variables) out, float32.

        With gradients where they are on.
        """
        self._cannot("forecast a series")

    def _cannot(self, what: str) -> NoReturn:
        raise InputError(f"{self.kind} cannot {what}", where=self.name, fix=f"Use it for {self.offers()}")

    @classmethod
    def offers(cls) -> str:
        """What a model of this kind can be asked for, in words."""
        return " and ".join(sorted(cls.can))


class Source(ABC):
    """What `open_model` finds: cheap to have, since only `load` builds a network.

    Attributes:
        name: what the user calls it; appears in tables and errors.
    """

    name: str

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of what would be loaded: SHA-256, hex, of its content. The ledger knows outcomes by it."""

    @property
    @abstractmethod
    def kind(self) -> type[Model]:
        """What kind of model `load` gives."""

    @abstractmethod
    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """The model in memory.

        Args:
            device: torch's name of the device.
            dtype: what it computes in.

        Raises:
            InputError: as `Model.load`.
        """


def asked_fingerprint(weights: Weights) -> str:
    """SHA-256, hex, of what a model of these weights answers by: asked with a control prefix, it is another one."""
    fingerprint = weights.fingerprint()
    return fingerprint if weights.control is None else weights.control.marked(fingerprint)


class WeightsSource(Source):
    """A model made of `Weights`: a checkpoint, an adapter or skill on a base, the result of a merge.

    Args:
        weights: what the model is made of.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights, self.name = weights, weights.name

    @property
    def fingerprint(self) -> str:
        """Of the weights."""
        return asked_fingerprint(self.weights)

    @functools.cached_property
    def kind(self) -> type[Model]:
        """The kind that its config.json describes."""
        config = self.weights.config or {}
        return next(kind for kind in model_kinds() if kind.holds(config))

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """Builds the network; device and type are checked before anything is read."""
        return self.kind.load(self.weights, device=device, dtype=dtype)


class LoadedSource(Source):
    """A model that is in memory already.

    Args:
        model: the model; it stays where it computes and in what.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.name = model, model.name

    @property
    def fingerprint(self) -> str:
        """Of what the model holds now."""
        return self.model.fingerprint

    @property
    def kind(self) -> type[Model]:
        """Its class."""
        return type(self.model)

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """The model itself."""
        return self.model


# What a caller may name a model by.
Named = str | Path | Weights | Model | Source


def open_model(model: Named, *, base: Weights | None = None, allow_pickle: bool = False) -> Source:
    """Finds what a caller names and says how it can be asked; reads headers only.

    Args:
        model: what `open_weights` opens by name (a folder, a file, a hub model, BASE+ADAPTER, BASE+SKILL), weights, a
            model in memory, or a source, which is given back.
        base: an opened base, as `open_weights` takes one.
        allow_pickle: names may lead to PyTorch's .bin and .pt files, which are loaded with `weights_only`.

    Raises:
        InputError: nothing is there, or what is there cannot be used.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, Model):
        return LoadedSource(model)
    if isinstance(model, Weights):
        return WeightsSource(model)
    if (saved := saved_model(model)) is not None:
        source: Source = saved.open_source(model, allow_pickle)
        return source
    return WeightsSource(open_weights(model, base=base, allow_pickle=allow_pickle))


_Kind = TypeVar("_Kind", bound=type[Model])
_kinds: dict[str, type[Model]] = {}
_last: dict[str, type[Model]] = {}


def model_kind(kind: _Kind) -> _Kind:
    """Puts a class of models on the list; used as a decorator."""
    _kinds[kind.__name__] = kind
    return kind


def last_kind(kind: _Kind) -> _Kind:
    """As `model_kind`, of the kind that is tried when no other holds a config."""
    _last[kind.__name__] = kind
    return kind


@functools.cache
def model_kinds() -> tuple[type[Model], ...]:
    """Every kind of model by name, the one that is tried last at the end."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return (*(kind for _, kind in sorted(_kinds.items())), *_last.values())


_Wanted = TypeVar("_Wanted", bound=Model)


def check_kind(wanted: type[Model], source: Source, asker: str) -> None:
    """Refuses a source of another kind than is needed.

    Args:
        wanted: the kind.
        source: what was named.
        asker: what needs it, as the subject of a sentence.

    Raises:
        InputError: it is of another kind.
    """
    if not issubclass(source.kind, wanted):
        raise InputError(
            f"{asker} needs {wanted.kind}, got {source.kind.kind}",
            where=source.name,
            fix="Name a model of that kind",
        )


def load_as(
    wanted: type[_Wanted], source: Source, asker: str, *, device: str = "cpu", dtype: str = "float32"
) -> _Wanted:
    """Loads a source that must be of one kind.

    Args:
        wanted: the kind.
        source: what to load.
        asker: what needs it, as the subject of a sentence.
        device, dtype: as `Source.load`.

    Raises:
        InputError: it is of another kind, which is told before anything is loaded; or as `Source.load`.
    """
    check_kind(wanted, source, asker)
    loaded = source.load(device, dtype)
    assert isinstance(loaded, wanted)
    return loaded
