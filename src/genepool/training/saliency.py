"""What several tasks' losses ask of one representation: its saliencies, and what Rep-MTL penalises in them.

The arithmetic stands beside the hook that catches the representation. `trainers.rep_mtl` uses both. Uses torch and the
model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network

# Below this a norm or a share counts as nothing; entries are scaled to about 1 before it is asked.
_NOTHING = 1e-12


def regulation(saliencies: torch.Tensor, *, signed: bool = False) -> torch.Tensor:
    """The mean entropy, in nats, of how the tasks share the saliency of a place (Rep-MTL, equations 4 to 6).

    P of a task at a place is its saliency there, as a part of all tasks'. Places that no task depends on, such as
    padding, do not count.

    Args:
        saliencies: of every task, (tasks, samples, places, width).
        signed: a place's saliency is the size of its mean over the width, as in equation 4, instead of the mean of the
            sizes. Behind a layer norm that mean is always 0: a norm does not see what is added to the whole width.

    Returns:
        A scalar from 0 (each place is one task's) to the logarithm of the number of tasks.

    Example:
        >>> import torch
        >>> both = torch.tensor([[[[3.0], [1.0]]], [[[1.0], [1.0]]]])  # two tasks, one sample, two places
        >>> round(float(regulation(both)), 4)
        0.6277
    """
    import torch

    sizes = saliencies.mean(-1).abs() if signed else saliencies.abs().mean(-1)
    whole = sizes.sum(0)
    shares = sizes / whole.clamp_min(torch.finfo(sizes.dtype).tiny)
    # Not torch's entr: its slope at a share of 0 is infinite, and a padded place has such a share.
    entropies = -(shares * shares.clamp_min(_NOTHING).log()).sum(0)
    asked = whole > 0
    return entropies[asked].mean() if bool(asked.any()) else 0 * whole.sum()


def alignment(saliencies: torch.Tensor, temperature: float) -> torch.Tensor:
    """How little the saliencies of a sample are alike in all tasks, beside other samples (Rep-MTL, equations 7 to 9).

    M_t = S_t S_t^T says which channels of a sample act together for a task; the anchor of a sample is the same matrix
    of all tasks' saliencies, each the mean over the places. The loss is -log of exp(cos(anchor, M_t) / temperature)
    over the sum of exp(cos(anchor, another sample's anchor) / temperature), averaged over samples and tasks.

    No matrix of width x width is made: the inner product of two such is the squared norm of one factor times the other.

    Args:
        saliencies: of every task, (tasks, samples, places, width), two samples or more.
        temperature: small ones weigh the most alike samples most.

    Returns:
        A scalar.
    """
    import torch

    by_sample = saliencies.transpose(0, 1)
    anchors, maps = _scaled(by_sample.mean(2), 2), _scaled(by_sample, 2)
    within = torch.einsum("bsw,btpw->btsp", anchors, maps).square().sum((2, 3))
    norms = _root(torch.einsum("btpw,btqw->btpq", maps, maps).square().sum((2, 3)))
    between = torch.einsum("bsw,kuw->bksu", anchors, anchors).square().sum((2, 3))
    own = _root(between.diagonal())
    alike = within / (own.unsqueeze(1) * norms)
    others = between / (own.unsqueeze(1) * own.unsqueeze(0))
    itself = torch.eye(len(own), dtype=torch.bool, device=own.device)
    away = (others / temperature).masked_fill(itself, -torch.inf).logsumexp(1)
    return (away.unsqueeze(1) - alike / temperature).mean()


def _scaled(values: torch.Tensor, last: int) -> torch.Tensor:
    """Values over their norms, which no cosine feels: their fourth powers stay finite."""
    norms = values.detach().flatten(-last).norm(dim=-1)
    scale = norms.clamp_min(1e-30).reshape(*norms.shape, *[1] * last)
    scaled: torch.Tensor = values / scale
    return scaled


def _root(values: torch.Tensor) -> torch.Tensor:
    return values.clamp_min(_NOTHING).sqrt()


class SharedRepresentation:
    """What stands behind a module of a network: the representation that all tasks share.

    Args:
        model: the network, with what is trained in place.
        name: of the module; None: the layer in the middle of the network.

    Raises:
        InputError: there is no such module, or the layers cannot be told apart.
    """

    def __init__(self, model: Network, name: str | None = None) -> None:
        self._title, self._name = model.title, name or "the layer in the middle"
        self._module = _middle(model) if name is None else _named(model, name)
        self._caught: list[torch.Tensor] = []

    @contextmanager
    def caught(self) -> Iterator[list[torch.Tensor]]:
        """Inside, every pass adds what the module gave to a list; slopes can be asked for it."""

        def keep(_: Any, __: Any, output: Any) -> Any:
            found: Any = output if _is_tensor(output) else output[0] if isinstance(output, tuple) and output else None
            if not _is_tensor(found) or not found.is_floating_point():
                raise self._wrong("gives no numbers that a loss could depend on")
            if not found.requires_grad:
                # Nothing before it is trained, and what is behind it still asks something of it.
                found = found.detach().requires_grad_()
            self._caught.append(found)
            if _is_tensor(output):
                return found
            return (found, *output[1:])

        self._caught = []
        hook = self._module.register_forward_hook(keep)
        try:
            yield self._caught
        finally:
            hook.remove()

    def by_place(self, values: torch.Tensor, rows: int) -> torch.Tensor:
        """Values of the representation as (rows, places, width), float32.

        Args:
            values: of its shape: (rows, width), (rows, places, width), or channels of images.
            rows: examples that were read.

        Raises:
            InputError: it has another shape.
        """
        if values.dim() == 4:
            values = values.flatten(2).transpose(1, 2)
        elif values.dim() == 2:
            values = values.unsqueeze(1)
        if values.dim() != 3 or len(values) != rows:
            raise self._wrong(f"gives {list(values.shape)}, expected a row for each of {rows} examples")
        return values.float()

    def slopes(self, loss: torch.Tensor, caught: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The slopes of a loss at what was caught, through which further slopes can be followed.

        Raises:
            InputError: the loss does not depend on it.
        """
        import torch

        found = torch.autograd.grad(loss, list(caught), create_graph=True, allow_unused=True)
        if any(slope is None for slope in found):
            raise self._wrong("does not lead to the answers")
        return list(found)

    def the_one(self, caught: Sequence[torch.Tensor]) -> torch.Tensor:
        """What was caught in one pass.

        Raises:
            InputError: the module did not run once.
        """
        if len(caught) != 1:
            raise self._wrong(f"runs {len(caught)} times in a pass, expected once")
        return caught[0]

    def _wrong(self, what: str) -> InputError:
        fix = "Name another module with --set at=NAME, such as one of its layers"
        return InputError(f"{self._name} {what}", where=self._title, fix=fix)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _named(model: Network, name: str) -> torch.nn.Module:
    modules = {key: module for key, module in model.model.named_modules() if key}
    if name not in modules:
        raise InputError(f"has no module '{name}'", where=model.title, fix=nearest(name, modules))
    found: torch.nn.Module = modules[name]
    return found


def _middle(model: Network) -> torch.nn.Module:
    import torch

    network = model.model
    config: Any = getattr(network, "config", None)
    told = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(told, "num_hidden_layers", None) or getattr(getattr(network, "shape", None), "layers", None)
    for module in network.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            found: torch.nn.Module = module[max(0, len(module) // 2 - 1)]
            return found
    raise InputError(
        "its layers cannot be told apart, so there is no middle of them",
        where=model.title,
        fix="Name the module whose output the tasks share with --set at=NAME",
    )
