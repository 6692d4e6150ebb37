"""Prefix tuning: trained keys and values before those of every input, in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.prefix_attention import heads_of, layers_of, put_before
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class PrefixOptions(FormOptions):
    """Options of prefix tuning."""

    length: int = Field(default=16, ge=1, le=65536, description="Keys and values of a layer's prefix.")


class Prefix(NetworkForm):
    """softmax(Q [P_k; K]^T) [P_v; V] in every layer, with P_k and P_v trained, drawn from N(0, 0.02^2) at the start."""

    name = "prefix"
    source = "Li and Liang, Prefix-Tuning (arXiv:2101.00190), as He et al. write it (arXiv:2110.04366)"
    when = "A change of what the layers attend to, in the fewest places."
    why_not = "keys and values before the input are no weights"
    traps = (
        "The start is not quite the base: a prefix takes its share of every softmax. Keys are put in as they stand, "
        "after rotary positions, and the input begins at position 0; PEFT lets it begin behind the prefix, so its "
        "keys are ours turned by `length` places. There is no MLP that makes the prefix."
    )
    Options = PrefixOptions
    options: PrefixOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        heads, size = heads_of(sites)
        shape = (heads, self.options.length, size)
        return {f"{layer}.{part}": shape for layer in range(layers_of(sites)) for part in ("key", "value")}

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        return {name: beginning.normal(name, shape, 0.02) for name, shape in self.shapes(beginning.sites).items()}

    def attach(self, attached: Attached) -> None:
        put_before(attached, lambda layer: (attached.tensors[f"{layer}.key"], attached.tensors[f"{layer}.value"]))
