"""A torch network that holds `Weights`: the part of a model that no question concerns.

Candidates of a search are judged by copying their tensors into one resident network, and what is trained is changed in
place. Every kind of model in `models` that has a network in memory builds on this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Self

from genepool.devices import check_device, check_dtype
from genepool.errors import InputError
from genepool.tasks.models import Model, asked_fingerprint
from genepool.weights import Weights
from genepool.weights.formed.formed_weights import FormedWeights

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.adapter_form import FormOfAdapter
    from genepool.weights.formed.attached import Attached


class PassListener(Protocol):
    """Is told of every pass of a network which request each of its lines belongs to.

    A request is the number of a prompt among those that a question names. Lines are sorted by length, read once where
    prompts are alike, repeated, and leave when they have ended: only who asks knows whose they are.
    """

    def alike(self, request: int) -> Hashable:
        """What requests of one prompt must have in common so that it is read once for them."""

    def passing(self, requests: Sequence[int]) -> AbstractContextManager[None]:
        """The pass runs inside.

        Args:
            requests: of each line.
        """


class Network(Model):
    """A model with one torch network.

    Args:
        weights: what the network was made of.
        model: the network, in evaluation mode.

    Attributes:
        model: the network.
        title: of the weights it was made of, whatever it holds now; for errors.
    """

    _listener: PassListener | None = None
    # The form of adapter that stands in the network.
    _form: Attached | None = None

    def __init__(self, weights: Weights, model: Any) -> None:
        self.model = model
        self._weights: Weights | None = weights
        self.title = weights.name
        self._targets = own_tensors(model)

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """See `Model.load`; device and type are checked before anything is read."""
        import torch

        check_dtype(dtype)
        check_device(device)
        model = cls._built(plain(weights), getattr(torch, dtype))
        loaded = cls(weights, _moved(model, device, weights.name), *cls._prepared_by(weights))
        loaded._put_in(weights)
        return loaded

    @property
    def spoiled(self) -> str | None:
        """The name of a tensor that holds NaN or infinity; None where there is none."""
        import torch

        with torch.inference_mode():
            return next((name for name, one in self.model.named_parameters() if not torch.isfinite(one).all()), None)

    @classmethod
    @abstractmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of `weights.config` with the tensors of `weights`, on the processor.

        Raises:
            InputError: its architecture is unknown, or its tensors do not fit.
        """

    @classmethod
    def _prepared_by(cls, weights: Weights) -> tuple[Any, ...]:
        """What else the class is made with: whatever prepares its prompts."""
        return ()

    @contextmanager
    def listened(self, listener: PassListener) -> Iterator[None]:
        """Inside, the listener is told of every pass that answers a question, and the pass runs as it wants."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def run(self, requests: Sequence[int], **inputs: Any) -> Any:
        """One pass of the network.

        Args:
            requests: the request that each line belongs to.
            inputs: what the network is called with.
        """
        with self.passing(requests):
            return self.model(**inputs)

    def passing(self, requests: Sequence[int]) -> AbstractContextManager[None]:
        """Inside, a part of the network makes a pass whose lines belong to these requests; see `run`."""
        return nullcontext() if self._listener is None else self._listener.passing(requests)

    def alike(self, request: int) -> Hashable:
        """What requests of one prompt must have in common so that it is read once for them."""
        return None if self._listener is None else self._listener.alike(request)

    @property
    def name(self) -> str:
        """Of the weights the model holds now."""
        return self._held().name

    @property
    def fingerprint(self) -> str:
        """Of the weights the model holds now."""
        return asked_fingerprint(self._held())

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @classmethod
    def outline(cls, weights: Weights) -> Any:
        """The network without its weights, to be looked at and never changed; None where the config does not tell it.

        Raises:
            InputError: the config is damaged.
        """
        from genepool.weights.meta_model import model_of

        return model_of(weights.config)

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """Modules that turn hidden states into classes, by name; empty for kinds whose head reads tokens."""
        return []

    def assign(self, weights: Weights) -> None:
        """Copies other tensors into the model in place; it then is that model, by name and fingerprint.

        Raises:
            InputError: the tensors are not those of this model's architecture.
        """
        import torch

        formed, weights = weights, plain(weights)
        named_alike = set(weights.names()) <= set(self._targets) <= {*weights.names(), *weights.aliases()}
        built = None if named_alike else self._rebuilt(weights)
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
                    f"{name} has shape {list(shape)}, expected {list(target.shape)}",
                    where=weights.name,
                    fix="Load it as a new model",
                )
        # Until the last tensor is copied the model is neither the old one nor the new, and must not pass for either.
        self._weights = None
        if self._form is not None:
            self._form.detach()
            self._form = None
        with torch.no_grad():
            for name, target in self._targets.items():
                target.copy_(weights.read(name) if built is None else built[name])
        self._weights = formed
        self._put_in(formed)

    def _put_in(self, weights: Weights) -> None:
        """Puts the form that stands on some weights into the network, where one does.

        Raises:
            InputError: the form is made for another kind of model.
        """
        if isinstance(weights, FormedWeights):
            self.refuse_form(weights.formed.form, weights.name)
            self._form = weights.attached(self.model)

    @classmethod
    def refuse_form(cls, form: FormOfAdapter, where: str) -> None:
        """Refuses a form of adapter that is made for another kind of model.

        Args:
            form: the form.
            where: the model, for errors.

        Raises:
            InputError: it is.
        """
        if form.reads != "any" and form.reads not in cls.can:
            words = {"classes": "models that tell classes", "text": "models that write"}
            raise InputError(
                f"the form {form.name} is made for {words[form.reads]}, got {cls.kind}",
                where=where,
                fix="Name such a model, or another form",
            )

    def taken(self) -> Weights:
        """The weights that the model holds.

        After it the model holds none that anyone knows, until others are assigned: whoever took them may change the
        network in place, for good.
        """
        held, self._weights = self._held(), None
        return held

    def _rebuilt(self, weights: Weights) -> Mapping[str, torch.Tensor]:
        """The tensors under the names and in the layout they have in memory, where those on the disk differ.

        Some architectures name or lay them out otherwise: what builds the network knows how.
        """
        return own_tensors(self._built(weights, self.model.dtype))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, every layer is given all places of a batch, for whoever looks at what it is given.

        Otherwise the last layer may be spared the places that no answer is read at.
        """
        yield

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
            raise InputError(
                "an error interrupted the assignment of weights to this model", fix="Assign weights to it again"
            )
        return self._weights


def plain(weights: Weights) -> Weights:
    """The weights that a network is built of: those below a form that does not fold."""
    return weights.base if isinstance(weights, FormedWeights) else weights


def _moved(model: Any, device: str, where: str) -> Any:
    """The network on a device. Some quantised ones stay where they were loaded."""
    if getattr(model, "is_quantized", False) and device == "cpu":
        return model
    try:
        return model.to(device)
    except ValueError:
        raise InputError(f"cannot be moved to {device}", where=where, fix="Leave --device out") from None


def behind_the_body(model: Any) -> list[str]:
    """The modules of transformers' network that stand behind its body and have parameters, by name."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]


def own_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A network's own tensors by name, each storage once."""
    targets: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            targets[name] = parameter.data
    return targets
