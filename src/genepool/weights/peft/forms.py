"""In which form a PEFT adapter can hold the change of each tensor of a model, told by the kind of its module.

`architecture` says what transformers makes of the config, so that a router or a position table that only looks like a
linear layer is known for what it is; names and shapes decide where that is not possible. The writer asks it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genepool.errors import InputError
from genepool.weights.architecture import Architecture, architecture_of
from genepool.weights.class_head import BaseWithHead
from genepool.weights.patterns import Patterns
from genepool.weights.roles import Role, infer_roles
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.weights import Weights

# linear, transposed, embedding: a product of two factors, for weights stored (out, in), (in, out), (tokens, width).
# experts: a product for each, of a parameter stored (experts, out, in) or (experts, in, out).
# whole: with the rest of its module, as one of `modules_to_save`. bias: as one of the biases of the base. none: not.
Kind = Literal["linear", "transposed", "embedding", "experts", "whole", "bias", "none"]
FACTORED: tuple[Kind, ...] = ("linear", "transposed", "embedding", "experts")
# Architectures whose linear layers are stored transposed (transformers' Conv1D).
_TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
BESIDE_FACTORS = "it is no matrix, and --factors-only leaves out what goes along whole"


@dataclass(frozen=True)
class AdapterForm:
    """How an adapter holds the change of one tensor.

    Attributes:
        kind: see `Kind`.
        module: dotted name of the module the tensor belongs to.
        reason: why it cannot be held; empty when it can.
    """

    kind: Kind
    module: str
    reason: str = ""


def adapter_forms(base: Weights, *, factors_only: bool = False, whole: Sequence[str] = ()) -> dict[str, AdapterForm]:
    """The form of the change of every tensor of a base.

    Args:
        base: what the adapter will be put on, its tensors named as in memory.
        factors_only: hold nothing beside factors: neither norms nor biases.
        whole: patterns of tensors whose modules go along whole, without loss, in place of factors.

    Raises:
        InputError: a pattern stands for no tensor, or for one that PEFT cannot hold.
    """
    architecture = architecture_of(base.config)
    infos = {name: base.info(name) for name in base.names()}
    roles = infer_roles(infos)
    forms = {name: _adapter_form(name, info, roles[name], base, architecture) for name, info in infos.items()}
    if isinstance(base, BaseWithHead):
        # The base has nothing that factors of a head could be added to.
        inside = {name: module for module in base.modules for name in infos if name.startswith(f"{module}.")}
        forms |= {name: AdapterForm("whole", module) for name, module in inside.items()}
    if whole:
        forms |= _held_whole(forms, Patterns(roles, base.config).chosen_by_any(whole, "--whole"))
    if factors_only:
        beside = {name: form for name, form in forms.items() if form.kind in ("whole", "bias")}
        forms |= {name: AdapterForm("none", form.module, BESIDE_FACTORS) for name, form in beside.items()}
    return forms


def _held_whole(forms: Mapping[str, AdapterForm], names: Collection[str]) -> dict[str, AdapterForm]:
    """The forms of all tensors of the modules that these tensors belong to, none of them in factors."""
    for name in sorted(names):
        if forms[name].kind in ("none", "experts"):
            reason = forms[name].reason or "experts are a parameter of their block, not a module"
            raise InputError(f"cannot go along whole: {reason}", where=f"--whole {name}", fix="Leave it out")
    modules = {forms[name].module for name in names}
    return {name: AdapterForm("whole", form.module) for name, form in forms.items() if form.module in modules}


def _adapter_form(
    name: str, info: TensorInfo, role: Role, base: Weights, architecture: Architecture | None
) -> AdapterForm:
    """The form of one tensor's change; `architecture` is None where it is not known."""
    module, _, leaf = name.rpartition(".")
    known = None if architecture is None else architecture.modules.get(module)
    if architecture is not None and known is None:
        return AdapterForm("none", module, "transformers builds no module of this name, so PEFT finds none")
    axes = len(info.shape)
    if known == "other" and axes == 3 and name not in getattr(architecture, "buffers", ()):
        return AdapterForm("experts", module)
    if leaf == "weight" and axes == 2 and known not in ("other", "norm"):
        kind = known or _guessed(role, base.config)
        if kind == "embedding" and _is_tied(name, info, base, architecture):
            return AdapterForm("none", module, "PEFT cannot adapt an embedding that is the head too")
        if kind in ("linear", "transposed", "embedding"):
            return AdapterForm(kind, module)
    takes_bias = known in FACTORED if known is not None else role.part != "norm"
    if leaf == "bias" and axes == 1 and takes_bias:
        return AdapterForm("bias", module)
    if axes == 1 and module and known not in _CONVOLUTIONS and (known in ("other", "norm") or role.part == "norm"):
        return AdapterForm("whole", module)
    return AdapterForm("none", module, "PEFT has no adapter for this kind of tensor")


def _guessed(role: Role, config: Mapping[str, Any] | None) -> Literal["linear", "transposed", "embedding"]:
    """The kind of a matrix's module, where the architecture is not known."""
    if role.part == "embedding":
        return "embedding"
    return "transposed" if (config or {}).get("model_type") in _TRANSPOSED_MODELS else "linear"


def _is_tied(name: str, info: TensorInfo, base: Weights, architecture: Architecture | None) -> bool:
    if name in base.aliases().values():
        return True
    if architecture is not None:
        others = [one for one in architecture.tied_with(name) if one != name]
        return any(one not in base.names() for one in others)
    config = base.config or {}
    words = config.get("vocab_size") in (None, info.shape[0])
    return bool(config.get("tie_word_embeddings")) and words
