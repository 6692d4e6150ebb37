"""What of a model is trained: low-rank factors that become an adapter, or every tensor, which becomes a skill.

The factors are PEFT's own layers, so what is trained is what PEFT loads. Uses tasks, torch and PEFT; `run` trains it.
"""

from __future__ import annotations

import copy
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.checked import printable
from genepool.errors import InputError, one_line
from genepool.seeding import torch_generator
from genepool.staging import staged_folder
from genepool.tasks import LanguageModel
from genepool.tasks.models.sequence_classifier import SequenceClassifier
from genepool.training.layers import TrainedModules, trained_modules
from genepool.training.recipe import Lora
from genepool.weights import BaseWithHead, Form, ModelDifference, TensorWeights, Weights, store
from genepool.weights.control import CONTROL_FILE, Control
from genepool.weights.naming import in_memory_layout
from genepool.weights.peft.folder import NOTES_FILE

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network

#: The full learning rate at a hidden size of 2000, and its exponent.
_RATE, _WIDTH, _EXPONENT = 5e-5, 2000, 0.781
#: How much larger that of factors is.
FACTOR_BOOST = 10


class Trained(ABC):
    """The trained part of a model in memory.

    Args:
        model: the base, loaded; it is changed in place.

    Attributes:
        place: what the result is called in a run's folder.
        boost: how much larger than for full training the learning rate is.
    """

    place: ClassVar[str]
    boost: float = 1.0

    def __init__(self, model: Network) -> None:
        self.model = model

    @abstractmethod
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""

    @abstractmethod
    def write(
        self,
        out: Path,
        tensors: Mapping[str, torch.Tensor],
        base: Weights,
        lineage: Mapping[str, Any],
        control: Control | None = None,
    ) -> None:
        """Writes what was trained, replacing what is there.

        Args:
            out: the adapter's folder or the skill's file.
            tensors: the parameters' values in float32, by name; they stand in the parameters too.
            base: the model they were trained from.
            lineage: how they were made.
            control: the control prefix that the result is asked with; None: as the base is.

        Raises:
            InputError: a tensor has another name or layout in memory than on the disk.
        """

    @abstractmethod
    def remember(self) -> None:
        """Called before the first step, where the model as it is now will be asked for during the training."""

    @abstractmethod
    def as_begun(self) -> AbstractContextManager[None]:
        """Inside, the model is what it was when it was remembered: nothing that was trained counts."""

    def about(self, task: str) -> AbstractContextManager[None]:
        """Inside, the model answers as it does for a task, where it has parts for each.

        Args:
            task: its name.
        """
        return nullcontext()

    def undone(self, base: Weights) -> AbstractContextManager[None]:
        """Inside, the model is what it was loaded as; afterwards what was trained may be lost.

        Args:
            base: what it was loaded from.
        """
        return self.as_begun()

    def learning_rate(self) -> float:
        """What the hidden size asks for."""
        # Of vectors and matrices the matrices' inputs say how wide the layers are; the median is that of the layers.
        widths = sorted(_widths(self.model.model))
        width = widths[len(widths) // 2] if widths else _WIDTH
        return float(self.boost * _RATE * (_WIDTH / width) ** _EXPONENT)


def _widths(network: Any) -> Iterator[int]:
    """The inputs of every matrix; a packed one says them beside it."""
    seen: set[int] = set()
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 2 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield getattr(module, "in_features", None) or parameter.shape[1]


class LoraFactors(Trained):
    """LoRA: a product of two factors beside every linear layer; the base stays as it is.

    Args:
        model: the base, loaded.
        lora: rank, alpha and layers.
        weights: what it was loaded from.
        seed: decides the factors at the start; each belongs to (seed, name).

    Raises:
        InputError: the model has no such layers.
    """

    place = "adapter"
    boost = FACTOR_BOOST

    def __init__(self, model: Network, lora: Lora, weights: Weights, seed: int) -> None:
        super().__init__(model)
        config = lora_config(model, lora, weights)
        self._adapted: Any = with_factors(model, config, "default")
        self._config, self._seed = config, seed
        self._parameters = {n: p for n, p in self._adapted.named_parameters() if p.requires_grad}
        self._second: dict[str, torch.nn.Parameter] = {}
        start_factors(self._parameters, seed)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return self._parameters

    def second(self, name: str) -> dict[str, torch.nn.Parameter]:
        """A second set of factors that begins like the first and is no part of the result.

        Args:
            name: what it is called, for `using`.

        Returns:
            Its parameters by name.

        Raises:
            InputError: layers are trained whole beside the factors, and stand only once.
        """
        if self._config.modules_to_save:
            raise InputError(
                "has a head that is trained whole, so its factors cannot stand twice",
                where=self.model.title,
                fix="Use another --objective",
            )
        self._adapted.add_adapter(name, self._config)
        mark = f".{name}."
        self._second = {n: p for n, p in self._adapted.named_parameters() if mark in n and "lora_" in n}
        start_factors({n.replace(mark, ".default."): p for n, p in self._second.items()}, self._seed)
        self._use("default")
        return self._second

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Inside, the model has the second set of factors instead of the first; both can be moved."""
        self._use(name)
        try:
            yield
        finally:
            self._use("default")

    def _use(self, name: str) -> None:
        self._adapted.set_adapter(name)
        # PEFT freezes the sets that are not used.
        for parameter in (*self._parameters.values(), *self._second.values()):
            parameter.requires_grad_(True)

    def remember(self) -> None:
        """The base stands beside the factors, with an adapter that it had before put into its weights."""

    @contextmanager
    def as_begun(self) -> Iterator[None]:
        with self._adapted.disable_adapter():
            yield

    def write(
        self,
        out: Path,
        tensors: Mapping[str, torch.Tensor],
        base: Weights,
        lineage: Mapping[str, Any],
        control: Control | None = None,
    ) -> None:
        name = str(lineage["base"]["name"])
        # PEFT resolves a relative path from wherever its reader runs.
        self._adapted.peft_config["default"].base_model_name_or_path = (
            str(Path(name).resolve()) if Path(name).exists() else name
        )
        with staged_folder(out, overwrite=True) as unfinished:
            self._adapted.save_pretrained(str(unfinished), save_embedding_layers=False, selected_adapters=["default"])
            in_order(unfinished / "adapter_config.json")
            head = {"head": base.head.to_dict()} if isinstance(base, BaseWithHead) else {}
            text = json.dumps({"genepool": 1, **head, "lineage": dict(lineage)}, indent=2, ensure_ascii=False)
            (unfinished / NOTES_FILE).write_text(text + "\n", encoding="utf-8")
            if control is not None:
                (unfinished / CONTROL_FILE).write_text(control.text(), encoding="utf-8")
            # PEFT's card is a form with nothing filled in.
            (unfinished / "README.md").unlink(missing_ok=True)


def lora_config(model: Network, lora: Lora, weights: Weights) -> Any:
    """PEFT's config of factors.

    Args:
        model: the base, loaded.
        lora: rank, alpha and layers.
        weights: what it was loaded from.

    Raises:
        InputError: the model has no such layers.
    """
    from peft import LoraConfig

    modules = modules_of(type(model), model.model, weights, lora)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(modules.targets),
        exclude_modules=list(modules.excluded) or None,
        lora_dropout=lora.dropout,
        bias="none",
        init_lora_weights=False,
        modules_to_save=list(modules.whole) or None,
        task_type=_task_type(model),
    )


def with_factors(model: Network, config: Any, name: str) -> Any:
    """PEFT's model around a network with one set of factors; the network is changed in place.

    Args:
        model: the base, loaded.
        config: of the factors.
        name: of the set.

    Raises:
        InputError: PEFT cannot put factors on its layers.
    """
    from peft import get_peft_model

    try:
        with warnings.catch_warnings():
            # PEFT asks transformers by names of which it says that they will go.
            warnings.simplefilter("ignore", FutureWarning)
            return get_peft_model(model.model, config, adapter_name=name)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"no factors can be put on its layers ({one_line(error)})",
            where=f"{model.title}:lora.targets",
            fix="Name linear layers of the model, or leave targets out",
        ) from None


def in_order(file: Path) -> None:
    """PEFT writes sets of names in an order that changes from process to process."""
    told = json.loads(file.read_text(encoding="utf-8"))
    told = {key: sorted(value) if isinstance(value, list) else value for key, value in told.items()}
    file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def start_factors(parameters: Mapping[str, torch.nn.Parameter], seed: int) -> None:
    """PEFT's own start, A Kaiming-uniform with a = sqrt(5) and B zero, each tensor from its own (seed, name)."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.zero_()
            elif "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                drawn = torch.empty(parameter.shape)
                parameter.copy_(drawn.uniform_(-bound, bound, generator=torch_generator(seed, "lora", name)))


def _task_type(model: Network) -> str | None:
    """PEFT's word for what a model does, where it has one."""
    words: dict[type[Network], str] = {LanguageModel: "CAUSAL_LM", SequenceClassifier: "SEQ_CLS"}
    return words.get(type(model))


def modules_of(kind: type[Network], network: Any, weights: Weights, lora: Lora) -> TrainedModules:
    """What a training of factors touches of a network.

    Args:
        kind: of the model.
        network: in memory, or its outline.
        weights: what it is made of.
        lora: rank, alpha and layers.

    Raises:
        InputError: as `trained_modules`.
    """
    fresh = weights.modules if isinstance(weights, BaseWithHead) else ()
    return trained_modules(network, kind.heads_of(network), fresh, lora.targets, f"{weights.name}:lora.targets")


class FullFineTune(Trained):
    """Every tensor of the model.

    Args:
        model: the base, loaded.
        weights: what it was loaded from.

    Raises:
        InputError: a tensor that is trained has no values in the file.
    """

    place = "skill.safetensors"

    def __init__(self, model: Network, weights: Weights) -> None:
        super().__init__(model)
        self._begun: Any = None
        self._parameters = dict(model.model.named_parameters())
        memory = in_memory_layout(weights)
        for name in self._parameters:
            if name not in memory:
                raise InputError(
                    f"its file holds no {name}, which is to be trained",
                    where=model.title,
                    fix="Fetch or save the model again, or train factors: leave --full out",
                )
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return self._parameters

    def remember(self) -> None:
        self._begun = copy.deepcopy(self.model.model).requires_grad_(False).eval()

    @contextmanager
    def as_begun(self) -> Iterator[None]:
        assert self._begun is not None
        trained, self.model.model = self.model.model, self._begun
        try:
            yield
        finally:
            self.model.model = trained

    @contextmanager
    def undone(self, base: Weights) -> Iterator[None]:
        self.model.assign(base)
        yield

    def write(
        self,
        out: Path,
        tensors: Mapping[str, torch.Tensor],
        base: Weights,
        lineage: Mapping[str, Any],
        control: Control | None = None,
    ) -> None:
        # A skill of a base whose file has another layout is put on it by the names it has in memory.
        base = in_memory_layout(base)
        # What no step moves, such as running statistics, is the base's.
        kept = {name: base.read(name) for name in base.names() if name not in tensors}
        tuned = TensorWeights(
            {**kept, **tensors}, out.stem, folder=base.folder, config=base.config, aliases=base.aliases()
        )
        words = {"name": printable(", ".join(lineage["tasks"])), "training": dict(lineage)}
        if control is not None:
            words["control"] = control.to_dict()
        store(ModelDifference(tuned, base), out, Form("dense"), "extract", words=words, overwrite=True)


class Reference:
    """A model as it was before the training, asked while it is trained.

    Args:
        trained: its trained part, which remembers.

    Attributes:
        trained: the same.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`; without gradients and without dropout."""
        with self._still() as model:
            return model.answer_logits(batch)

    def hidden_states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The last hidden states of texts, (tokens, hidden) each; without dropout."""
        with self._still() as model:
            return [layers[-1] for layers in model.hidden_states(list(texts))]

    @contextmanager
    def _still(self) -> Iterator[Network]:
        """Inside, the model is what it was, without gradients and dropout."""
        import torch

        with torch.no_grad(), self.trained.as_begun():
            model = self.trained.model
            modes = {module: module.training for module in model.model.modules()}
            model.model.eval()
            try:
                yield model
            finally:
                for module, mode in modes.items():
                    module.training = mode
