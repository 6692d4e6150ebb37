"""The door of this room: an adapter watches a stream. It predicts a batch, and learns from it once that is issued.

One adapter a file in `adapters/`, found by being there. An adapter never sees domains, and sees labels only as they
come late. Uses the stream's model; `adaptation` drives it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genepool.errors import InputError
from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, described_options, validate

if TYPE_CHECKING:
    import torch

    from genepool.adaptation.stream_model import Inputs, StreamModel

#: What of a model an adapter changes.
Trains = Literal["norm", "all", "added", "nothing"]
#: What a model is asked for along a stream: classes of examples, or what follows in a series.
Asked = Literal["classes", "series"]
#: What an adapter asks for beside the stream.
Need = Literal[
    "features", "linear layers", "images", "source examples", "late labels", "several examples", "a language model"
]


@dataclass(frozen=True)
class StreamBatch:
    """Examples of a stream that are predicted together. Where they are from is not told.

    Attributes:
        number: of the batch, counted from 0 over all rounds; decides every draw.
        inputs: as the model reads them.
        keys: of the examples.
        prompts: their texts; empty where the inputs are no texts.
    """

    number: int
    inputs: Inputs
    keys: tuple[str, ...]
    prompts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Answered:
    """A batch of before, whose labels have come.

    Attributes:
        batch: as it was predicted.
        targets: numbers of the classes, shape (n,), int64; -1 for labels that never come. Of a series what follows each
            window, shape (n, horizon, variables), float32; NaN for steps that have not come.
        whole: whether nothing of it is to come any more; batches of a series are also given in part.
    """

    batch: StreamBatch
    targets: torch.Tensor
    whole: bool = True


@dataclass(frozen=True)
class SourceExamples:
    """Examples of what the model was trained on.

    Attributes:
        batches: their inputs, batch by batch.
        targets: numbers of the classes by batch, shape (n,) each, int64; of a series as in `Answered`.
        domains: of the examples, by batch.
    """

    batches: tuple[Inputs, ...]
    targets: tuple[torch.Tensor, ...]
    domains: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Signals:
    """What an update did with each example.

    Attributes:
        kept: whether it was learned from, shape (n,), bool.
        weight: how much it counted, shape (n,), float32; 0 where it was not kept.
        reset: the adapter put itself back to its start.
        late: of a series, what it would forecast for the batch now, for steps that have not come; what was issued for
            the others. None where it does not forecast again.
    """

    kept: torch.Tensor
    weight: torch.Tensor
    reset: bool = False
    late: torch.Tensor | None = None

    @classmethod
    def all_alike(cls, count: int, *, kept: bool) -> Signals:
        """All examples are kept with the weight 1, or none is."""
        import torch

        return cls(torch.full((count,), kept), torch.full((count,), float(kept)))


@dataclass(frozen=True)
class AdapterState:
    """All that an adapter is at a moment.

    Attributes:
        tensors: by name; copies, on the processor.
        values: plain data.
    """

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any] = field(default_factory=dict)


class AdapterOptions(Strict):
    """Options of an adapter: none, unless it says some."""

    page = "reference/stream-adapters"


class StreamAdapter(ABC):
    """Predicts the batches of a stream and learns from them.

    Args:
        options: its options; the defaults when None.

    Attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        trains: what of the model it changes.
        needs: what it asks for beside the stream.
        asks: what models can be asked for that it adapts.
        order: what the order of the stream does to it, as a sentence.
        Options: the model of its options.
        options: those it was made with.
        model: what it adapts; there from `begin` on.
        seed: of the run; there from `begin` on.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    trains: ClassVar[Trains]
    needs: ClassVar[frozenset[Need]] = frozenset()
    asks: ClassVar[frozenset[Asked]] = frozenset({"classes"})
    order: ClassVar[str]
    Options: ClassVar[type[AdapterOptions]] = AdapterOptions

    model: StreamModel
    seed: int

    def __init__(self, options: AdapterOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()
        self._begun: AdapterState | None = None

    def begin(self, model: StreamModel, source: SourceExamples | None, seed: int) -> None:
        """Called once, before the first batch.

        Args:
            model: as it was trained; the adapter may change it in place.
            source: examples of its training, where the stream has some.
            seed: every draw belongs to (seed, number of the batch, purpose).

        Raises:
            InputError: the model or the stream lacks something that the adapter needs.
        """
        self._check(model, source)
        self.model, self.seed = model, seed
        self._prepare(source)
        self._begun = self.state()

    def _check(self, model: StreamModel, source: SourceExamples | None) -> None:
        """Refuses a model or a stream that lacks something.

        Raises:
            InputError: naming what is lacking.
        """
        asked: Asked = "series" if model.forecasts else "classes"
        if asked not in self.asks:
            kinds = {"classes": ("a classifier", "classifiers"), "series": ("a forecaster", "forecasters of series")}
            raise InputError(
                f"is {kinds[asked][0]}, and {self.name} adapts {kinds[next(iter(self.asks))][1]}",
                where=model.title,
                fix="Choose another --adapter; `genepool adapt --list` prints them",
            )
        if self.trains == "norm" and not model.names("norm"):
            raise InputError(
                f"has no norm layers, which {self.name} trains", where=model.title, fix="Choose another --adapter"
            )
        if "features" in self.needs and not model.has_features:
            raise InputError(
                f"has no last linear layer, whose inputs are the features that {self.name} needs",
                where=model.title,
                fix="Choose another --adapter",
            )
        if "linear layers" in self.needs and not model.has_linear_layers:
            raise InputError(
                f"has no linear layer but that of its classes, and {self.name} stands beside the others",
                where=model.title,
                fix="Choose another --adapter",
            )
        if "a language model" in self.needs and not model.writes:
            raise InputError(
                f"writes no text, and {self.name} learns from what a language model writes",
                where=model.title,
                fix="Name a causal language model and a stream with `choices`, or choose another --adapter",
            )
        if "source examples" in self.needs and source is None:
            raise InputError(
                f"has no source examples, which {self.name} needs",
                where="--stream",
                fix="Put source.jsonl into its folder, or choose another --adapter",
            )

    def _prepare(self, source: SourceExamples | None) -> None:  # noqa: B027
        """Makes what the adapter needs: an optimiser, a teacher, statistics of the source."""

    @abstractmethod
    def predict(self, batch: StreamBatch) -> torch.Tensor:
        """What is issued, without gradients, float32: the probabilities of the classes, shape (n, classes).

        Of a series the forecasts, shape (n, horizon, variables).
        """

    @abstractmethod
    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        """Learns from the batch that was predicted last.

        Args:
            batch: that batch.
            late: batches of before whose labels come now; empty where none do.
        """

    def look(self, inputs: Inputs) -> torch.Tensor:
        """What would be predicted now, shaped as by `predict`; changes nothing, and nothing is learned from it."""
        return self.model.predictions(inputs)

    def result(self) -> dict[str, torch.Tensor]:
        """The tensors of the model that are others now, by name: what becomes a skill."""
        found: dict[str, torch.Tensor] = dict(self.trained())
        return found

    def trained(self) -> Mapping[str, torch.nn.Parameter]:
        """What is trained of the model, by name."""
        return self.model.trainable(self.trains) if self.trains == "norm" or self.trains == "all" else {}

    @property
    def augments(self) -> bool:
        """Whether it compares images with changed ones, where it is given images."""
        return "images" in self.needs

    # ------------------------------------------------------------------ state

    def state(self) -> AdapterState:
        """All that it is now."""
        import torch

        with torch.no_grad():
            model = {f"model.{name}": tensor for name, tensor in self.trained().items()}
            tensors = {**model, **{f"own.{name}": tensor for name, tensor in self._tensors().items()}}
            copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        return AdapterState(copies, self._values())

    def restore(self, state: AdapterState) -> None:
        """Puts back a state that it had.

        Raises:
            KeyError, ValueError: the state is of another adapter or model.
        """
        import torch

        # A tensor that it had at its start it has for ever, in the same shape.
        for name, one in (self._begun.tensors if self._begun is not None else {}).items():
            check_shape(name, state.tensors[name], one)
        with torch.no_grad():
            for name, parameter in self.trained().items():
                found = state.tensors[f"model.{name}"]
                check_shape(name, found, parameter)
                parameter.copy_(found)
        own = {name.removeprefix("own."): one for name, one in state.tensors.items() if name.startswith("own.")}
        self._restore(own, dict(state.values))

    def reset(self) -> None:
        """Puts back the start."""
        assert self._begun is not None
        self.restore(self._begun)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What it holds beside the model's own tensors."""
        return {}

    def _values(self) -> dict[str, Any]:
        """What it holds that is no tensor."""
        return {}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:  # noqa: B027
        """Puts back what `_tensors` and `_values` gave."""


def check_shape(name: str, found: torch.Tensor, like: torch.Tensor) -> None:
    """Refuses a tensor of a state that would not fit, or that would be spread to fit.

    Raises:
        ValueError: its shape is another one.
    """
    if found.shape != like.shape:
        raise ValueError(f"{name} has the shape {list(found.shape)}, expected {list(like.shape)}")


def all_adapters() -> dict[str, type[StreamAdapter]]:
    """Every adapter by name."""
    return classes_by_name("genepool.adaptation.adapters", StreamAdapter)


def find_adapter(name: str, options: Mapping[str, Any] | None = None, where: str = "--adapter") -> StreamAdapter:
    """The adapter of this name.

    Args:
        name: what the command line calls it.
        options: those that are not the defaults.
        where: for errors.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    kind = of_name(all_adapters(), "adapter", name, where)
    return kind(validate(kind.Options, dict(options or {}), "--set"))


def described_adapter(kind: type[StreamAdapter]) -> dict[str, Any]:
    """What is said of an adapter, as plain data."""
    return {
        "name": kind.name,
        "source": kind.source,
        "when": kind.when,
        "trains": kind.trains,
        "needs": sorted(kind.needs),
        "asks": sorted(kind.asks),
        "order": kind.order,
        "parameters": described_options(kind.Options),
    }
