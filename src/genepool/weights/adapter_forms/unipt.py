"""UniPT: a side network that reads the states of all layers, so that no gradient goes through the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class UniptOptions(FormOptions):
    """Options of UniPT."""

    reduction: int = Field(default=4, ge=1, le=1024, description="The side network's width is the model's over this.")


class Unipt(NetworkForm):
    """The last layer's state h gets up(sum_l g_l o_l), what the states h_l of all layers say of it.

    o_l = q + a_l k_l, with q = down_L h, k_l = down_l h_l, and a_l = relu(q k_l^T) with each row over its sum; g is the
    softmax over layers of u_l . o_l.

    Only states enter it, so no gradient and no activations of the base are kept. up begins at 0.
    """

    name = "unipt"
    source = "Diao et al., UniPT (CVPR 2024, arXiv:2308.14316); the gate and the start at 0 are ours"
    when = "Training a classifier in little memory: the base is only read."
    why_not = "it is a network beside the layers"
    traps = (
        "It reads all places of an input at once. A model that writes would have to keep the states of all layers in "
        "a cache of their own, so the form is for classifiers."
    )
    reads = "classes"
    Options = UniptOptions
    options: UniptOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        if len(sites.depth) > 1:
            raise InputError("has several lists of layers", where=sites.where, fix="Use another form")
        width = sites.mlps[0].last.outputs
        side = max(1, width // self.options.reduction)
        found: Shapes = {"up": (width, side)}
        for layer in range(next(iter(sites.depth.values()))):
            found[f"{layer}.down"] = (side, width)
            found[f"{layer}.gate"] = (side,)
        return found

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        return {
            name: beginning.kaiming(name, shape) if name.endswith(".down") else torch.zeros(shape)
            for name, shape in self.shapes(beginning.sites).items()
        }

    def attach(self, attached: Attached) -> None:
        stack, depth = next(iter(attached.sites.depth.items()))
        side = _Side(attached, depth)
        attached.replace("", side.network)
        for layer in range(depth):
            attached.replace(f"{stack}.{layer}" if stack else str(layer), side.layer(layer))


class _Side:
    """The side network while an input passes through the base."""

    def __init__(self, attached: Attached, depth: int) -> None:
        self._attached, self._last = attached, depth - 1
        self._states: dict[int, torch.Tensor] = {}
        self._mask: torch.Tensor | None = None

    def network(self, plain: Any, *arguments: Any, **named: Any) -> Any:
        mask = named.get("attention_mask")
        self._mask = mask if mask is not None and mask.dim() == 2 else None
        self._states.clear()
        return plain(*arguments, **named)

    def layer(self, number: int) -> Any:
        def computed(plain: Any, *arguments: Any, **named: Any) -> Any:
            found = plain(*arguments, **named)
            state = found[0] if isinstance(found, tuple) else found
            self._states[number] = state.detach()
            if number < self._last:
                return found
            state = self._states[number] + self._added()
            return (state, *found[1:]) if isinstance(found, tuple) else state

        return computed

    def _added(self) -> torch.Tensor:
        import torch

        tensors = self._attached.tensors
        q = self._states[self._last] @ tensors[f"{self._last}.down"].T
        outputs, logits = [], []
        for layer, state in sorted(self._states.items()):
            k = state @ tensors[f"{layer}.down"].T
            scores = (q @ k.mT).relu()
            if self._mask is not None and self._mask.shape[-1] == scores.shape[-1]:
                scores = scores * self._mask[:, None, :].to(scores)
            o = q + (scores / scores.sum(-1, keepdim=True).clamp(min=1e-6)) @ k
            outputs.append(o)
            logits.append(o @ tensors[f"{layer}.gate"])
        gates = torch.stack(logits).softmax(0)
        self._states.clear()
        added: torch.Tensor = (gates.unsqueeze(-1) * torch.stack(outputs)).sum(0) @ tensors["up"].T
        return added
