"""The places of a model that a form can stand at: linear layers, MLPs and norms, told from headers.

Asked of transformers' class (`architecture`), so that a folder of a form is checked before any weight is read, and that
training, loading and folding mean the same modules. Uses names and shapes alone; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of, why_unknown
from genepool.weights.naming import in_memory_layout
from genepool.weights.roles import Part, infer_roles
from genepool.weights.weights import Weights


@dataclass(frozen=True)
class LinearSite:
    """A linear layer inside one of the model's layers.

    Attributes:
        module: its name in memory.
        outputs, inputs: features.
        bias: whether it has one.
        transposed: whether its weight is kept as (inputs, outputs), as transformers' Conv1D does.
        stack, layer: the list of layers that it belongs to, and its number in it.
        place: its name within the layer.
        part: attention, mlp or other.
    """

    module: str
    outputs: int
    inputs: int
    bias: bool
    transposed: bool
    stack: str
    layer: int
    place: str
    part: Part


@dataclass(frozen=True)
class MlpSite:
    """The MLP of one layer.

    Attributes:
        first: the first linear layer that reads what the MLP reads.
        last: the linear layer whose output is the MLP's.
        box: the module that holds all of its linear layers and nothing of the attention; None where there is none.
    """

    first: LinearSite
    last: LinearSite
    box: str | None


@dataclass(frozen=True)
class NormSite:
    """A norm: its module's name in memory, its features, and whether it adds a bias."""

    module: str
    features: int
    bias: bool


@dataclass(frozen=True)
class ModelSites:
    """Every place of a model.

    Attributes:
        where: the model, for errors.
        linear: linear layers inside layers, in the model's order.
        norms: in the model's order.
        heads: the linear layers behind the body that tell classes; their `layer` is -1.
        settings: the config with every default filled in.
    """

    where: str
    linear: tuple[LinearSite, ...]
    norms: tuple[NormSite, ...]
    heads: tuple[LinearSite, ...]
    settings: Mapping[str, Any]

    @cached_property
    def depth(self) -> dict[str, int]:
        """How many layers each list of layers has."""
        found: dict[str, int] = {}
        for site in self.linear:
            found[site.stack] = max(found.get(site.stack, 0), site.layer + 1)
        return found

    @cached_property
    def mlps(self) -> tuple[MlpSite, ...]:
        """The MLP of every layer.

        Raises:
            InputError: a layer has none, or experts in its place.
        """
        layers: dict[tuple[str, int], list[LinearSite]] = {}
        for site in self.linear:
            layers.setdefault((site.stack, site.layer), [])
            if site.part == "mlp":
                layers[site.stack, site.layer].append(site)
        found = []
        for (stack, layer), sites in layers.items():
            first, last = (sites[0], sites[-1]) if sites else (None, None)
            if first is None or last is None or len(sites) not in (2, 3) or first.inputs != last.outputs:
                raise InputError(
                    f"the MLP of layer {layer} of {stack} cannot be told",
                    where=self.where,
                    fix="Use a form for linear layers, such as mtlora",
                )
            found.append(MlpSite(first, last, self._box(sites, stack, layer)))
        return tuple(found)

    def _box(self, sites: list[LinearSite], stack: str, layer: int) -> str | None:
        parents = {site.module.rpartition(".")[0] for site in sites}
        whole = f"{stack}.{layer}" if stack else str(layer)
        return parents.pop() if len(parents) == 1 and whole not in parents else None


def sites_of(weights: Weights) -> ModelSites:
    """The places of a model, from its headers.

    Args:
        weights: the model.

    Raises:
        InputError: transformers does not know its class, or it has no layers.
    """
    architecture = architecture_of(weights.config)
    if architecture is None:
        raise InputError(
            f"its layers cannot be told: {why_unknown(weights.config)}",
            where=weights.name,
            fix="Use a model of transformers' own classes",
        )
    memory = in_memory_layout(weights)
    infos = {name: memory.info(name) for name in (*memory.names(), *memory.aliases())}
    roles = infer_roles(infos)
    linear, norms, heads = [], [], []
    body = f"{architecture.base_model_prefix}."
    for module, kind in architecture.modules.items():
        name = f"{module}.weight"
        if name not in infos:
            continue
        role, shape, bias = roles[name], infos[name].shape, f"{module}.bias" in infos
        if kind in ("linear", "transposed") and len(shape) == 2:
            outputs, inputs = shape if kind == "linear" else shape[::-1]
            turned, part = kind == "transposed", role.part
            if role.layer is not None:
                place = module.removeprefix(f"{role.stack}.{role.layer}." if role.stack else f"{role.layer}.")
                linear.append(LinearSite(module, outputs, inputs, bias, turned, role.stack, role.layer, place, part))
            elif not module.startswith(body) and module != architecture.output_embeddings:
                heads.append(LinearSite(module, outputs, inputs, bias, turned, "", -1, module, part))
        elif role.part == "norm" and len(shape) == 1:
            norms.append(NormSite(module, shape[0], bias))
    if not linear:
        raise InputError("has no linear layers inside layers", where=weights.name, fix="Train every tensor: --full")
    return ModelSites(weights.name, tuple(linear), tuple(norms), tuple(heads), architecture.settings)
