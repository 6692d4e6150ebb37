"""The trained part of a model that gets a form of adapter: its tensors, how they begin, and the folder they become.

A form is one of `genepool.weights.adapter_forms`. What it begins with is a function of (base, seed, training examples),
so a training that goes on begins it again, to the same bits. Uses torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.seeding import derive
from genepool.training.trained import Trained
from genepool.weights import Weights
from genepool.weights.formed.adapter_form import Beginning, FormOfAdapter
from genepool.weights.formed.attached import Attached
from genepool.weights.formed.form_folder import write_form
from genepool.weights.formed.sites import LinearSite, sites_of
from genepool.weights.naming import in_memory_layout

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network
    from genepool.weights.control import Control


class TrainedForm(Trained):
    """A form of adapter; the base stays as it is.

    Args:
        model: the base, loaded.
        form: the form, with its options and tasks.
        weights: what the base was loaded from.
        seed: decides what is drawn at the start.
        ask: asks the model its first training examples, so many or as many as usual, each alone; the mean loss of
            their answers, per token.

    Raises:
        InputError: the form does not fit this model.
    """

    place = "form"

    def __init__(
        self, model: Network, form: FormOfAdapter, weights: Weights, seed: int, ask: Callable[[int | None], float]
    ) -> None:
        super().__init__(model)
        self.form, self.boost, self._seed, self._ask = form, form.boost, derive(seed, "form draws"), ask
        for parameter in model.model.parameters():
            parameter.requires_grad_(False)
        self._sites, memory = sites_of(weights), in_memory_layout(weights)

        def read(site: LinearSite) -> tuple[torch.Tensor, torch.Tensor | None]:
            weight = memory.read(f"{site.module}.weight").float()
            bias = memory.read(f"{site.module}.bias").float() if site.bias else None
            return weight.T if site.transposed else weight, bias

        self._tensors = self._begun(form.all_begin(self._beginning(read, seed)))
        self._attached = Attached(form, model.model, self._sites, self._tensors, self._seed, trained=True)

    def _begun(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        like = next(self.model.model.parameters())
        kind = like.dtype if like.dtype.is_floating_point else torch.float32
        found: dict[str, torch.Tensor] = {}
        for name, value in values.items():
            placed = value.to(like.device, kind, copy=True).contiguous()
            found[name] = placed if self.form.frozen(name) else torch.nn.Parameter(placed)
        return found

    def _beginning(
        self, read: Callable[[LinearSite], tuple[torch.Tensor, torch.Tensor | None]], seed: int
    ) -> Beginning:
        return Beginning(self._sites, read, seed, self._squares, self._layers, self._loss_without)

    def _layers(self, names: Sequence[str]) -> list[torch.Tensor]:
        """What layers give on training examples, the mean over the places of each: (examples, width) each, float32."""
        import torch

        found: list[list[torch.Tensor]] = [[] for _ in names]

        def listen(number: int) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                state = output[0] if isinstance(output, tuple) else output
                found[number].append(state.detach().float().mean(1).cpu())

            return hook

        network = self.model.model
        handles = [network.get_submodule(name).register_forward_hook(listen(i)) for i, name in enumerate(names)]
        self._asked(handles)
        return [torch.cat(states) for states in found]

    def _asked(self, handles: Sequence[Any]) -> float:
        """Asks the training examples while some hooks listen, which are removed; the mean loss."""
        import torch

        try:
            with torch.no_grad():
                return self._ask(None)
        finally:
            for handle in handles:
                handle.remove()

    def _loss_without(self, modules: Sequence[str], examples: int) -> float:
        """The mean loss of some training examples while some modules give 0."""
        import torch

        network = self.model.model
        handles = [
            network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: output * 0)
            for name in modules
        ]
        try:
            with torch.no_grad():
                return self._ask(examples)
        finally:
            for handle in handles:
                handle.remove()

    def _squares(self, sites: Sequence[LinearSite]) -> dict[str, torch.Tensor]:
        """What the layers read on training examples: the mean of x x^T, (inputs, inputs) float64, by module."""
        total: dict[str, torch.Tensor] = {}
        count: dict[str, int] = {}

        def listen(name: str) -> Callable[..., None]:
            def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
                rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
                total[name] = total.get(name, 0) + rows.T @ rows
                count[name] = count.get(name, 0) + len(rows)

            return hook

        network, names = self.model.model, [site.module for site in sites]
        self._asked([network.get_submodule(name).register_forward_pre_hook(listen(name)) for name in names])
        return {name: (total[name] / count[name]).cpu() for name in total}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        import torch

        return {name: one for name, one in self._tensors.items() if isinstance(one, torch.nn.Parameter)}

    def about(self, task: str) -> AbstractContextManager[None]:
        """See `Trained.about`."""
        form = self.form
        return self._attached.asked(form.tasks.index(task) if form.by_task and task in form.tasks else -1)

    def remember(self) -> None:
        """The base stands beside the form."""

    @contextmanager
    def as_begun(self) -> Iterator[None]:
        with self._attached.off():
            yield

    def write(
        self,
        out: Path,
        tensors: Mapping[str, torch.Tensor],
        base: Weights,
        lineage: Mapping[str, Any],
        control: Control | None = None,
    ) -> None:
        if control is not None:
            raise InputError(
                "is asked with a control prefix, which the folder of a form does not keep",
                where=f"--form {self.form.name}",
                fix="Use another --objective, or --lora",
            )
        # From here on the model is asked, not trained.
        self._attached.trained = False
        name = str(lineage["base"]["name"])
        told = {"name": str(Path(name).resolve()) if Path(name).exists() else name, "fingerprint": base.fingerprint()}
        write_form(out, self.form, {**self._tensors, **tensors}, told, self._seed, lineage)
