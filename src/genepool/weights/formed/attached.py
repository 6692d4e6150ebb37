"""A form in a network in memory: what its modules compute is replaced, and can be switched off and taken out again.

The network's own parameters and modules stay as they are; only `forward` of some modules is another one. Training and
the loading of models use it. Uses torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genepool.weights.formed.adapter_form import head_key
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.adapter_form import FormOfAdapter

#: Gets what a module computed before, and its arguments; gives what it computes now.
Replacement = Callable[..., Any]


class Attached:
    """A form in a network.

    Args:
        form: the form.
        network: transformers' network, changed in place until `detach`.
        sites: the places of the network.
        tensors: the form's tensors, on the network's device and in its type; with gradients where they are trained.
        seed: of what the form draws when it is asked.
        trained: whether the form is being trained: some compute otherwise then.

    Attributes:
        on: whether the form acts; without it, the network computes what it did before.
        task: number of the task that is asked, for forms with parts for each; -1 for none of them.
    """

    def __init__(
        self,
        form: FormOfAdapter,
        network: Any,
        sites: ModelSites,
        tensors: Mapping[str, torch.Tensor],
        seed: int = 0,
        *,
        trained: bool = False,
    ) -> None:
        self.form, self.network, self.sites, self.tensors, self.seed = form, network, sites, tensors, seed
        self.trained, self.on, self.task = trained, True, -1
        self._undo: list[Callable[[], object]] = []
        form.attach(self)
        for site in sites.heads:
            self.replace(site.module, self._headed(site))

    def _headed(self, site: LinearSite) -> Replacement:
        """A head that is trained whole: the form's own weights in place of the network's."""
        from torch.nn.functional import linear

        weight, bias = self.tensors[head_key(site, "weight")], self.tensors.get(head_key(site, "bias"))
        return lambda _plain, x: linear(x, weight, bias)

    def module(self, name: str) -> torch.nn.Module:
        """A module of the network, by name."""
        found: torch.nn.Module = self.network.get_submodule(name)
        return found

    def replace(self, name: str, replacement: Replacement) -> None:
        """What a module computes from now on, while the form acts.

        Args:
            name: of the module; empty for the network itself.
            replacement: called with what it computed before, and then its arguments.
        """
        module: Any = self.module(name)
        plain = module.forward
        had = "forward" in vars(module)

        @functools.wraps(plain)
        def forward(*arguments: Any, **named: Any) -> Any:
            if not self.on:
                return plain(*arguments, **named)
            return replacement(plain, *arguments, **named)

        def undo() -> None:
            if had:
                module.forward = plain
            else:
                del module.forward

        module.forward = forward
        self._undo.append(undo)

    def also_undo(self, undo: Callable[[], object]) -> None:
        """What else is done when the form is taken out."""
        self._undo.append(undo)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the form does not act."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    @contextmanager
    def asked(self, task: int) -> Iterator[None]:
        """Inside, a task is asked."""
        before, self.task = self.task, task
        try:
            yield
        finally:
            self.task = before

    def detach(self) -> None:
        """Takes the form out of the network again."""
        while self._undo:
            self._undo.pop()()
