"""In which form a PEFT adapter can hold the change of each tensor of a model, told by the kind of its module.

The model is built from its config without memory for its weights, so that a router or a position table that only looks
like a linear layer is known for what it is; names and shapes decide where that is not possible. The writer asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genepool.weights.roles import Role, infer_roles
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.weights import Weights

# linear, transposed, embedding: a product of two factors, for weights stored (out, in), (in, out), (tokens, width).
# whole: with the rest of its module, as one of `modules_to_save`. bias: as one of the biases of the base. none: not.
Kind = Literal["linear", "transposed", "embedding", "whole", "bias", "none"]
FACTORED: tuple[Kind, ...] = ("linear", "transposed", "embedding")
# Architectures whose linear layers are stored transposed (transformers' Conv1D).
_TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


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


def adapter_forms(base: Weights) -> dict[str, AdapterForm]:
    """The form of the change of every tensor of a base."""
    modules = _module_kinds(base.config)
    infos = {name: base.info(name) for name in base.names()}
    roles = infer_roles(infos)
    return {name: _adapter_form(name, info, roles[name], base, modules) for name, info in infos.items()}


def _adapter_form(name: str, info: TensorInfo, role: Role, base: Weights, modules: Mapping[str, str]) -> AdapterForm:
    """The form of one tensor's change.

    Args:
        name, info, role: the tensor.
        base: what the adapter will be put on.
        modules: module -> kind, as from `_module_kinds`; empty when not known.
    """
    config = base.config or {}
    module, _, leaf = name.rpartition(".")
    known = modules.get(module)
    if modules and known is None:
        return AdapterForm("none", module, "transformers builds no module of this name, so PEFT finds none")
    axes = len(info.shape)
    if leaf == "weight" and axes == 2 and known != "other":
        linear = "transposed" if config.get("model_type") in _TRANSPOSED_MODELS else "linear"
        kind = known or ("embedding" if role.part == "embedding" else linear)
        if kind == "embedding" and _tied(name, info, base):
            return AdapterForm("none", module, "PEFT cannot adapt an embedding that is the head too")
        return AdapterForm(kind, module)  # type: ignore[arg-type]
    if leaf == "bias" and axes == 1 and (known in FACTORED or (known is None and role.part != "norm")):
        return AdapterForm("bias", module)
    if axes == 1 and module and (known == "other" or role.part == "norm"):
        return AdapterForm("whole", module)
    return AdapterForm("none", module, "PEFT has no adapter for this kind of tensor")


def _tied(name: str, info: TensorInfo, base: Weights) -> bool:
    config = base.config or {}
    words = config.get("vocab_size") in (None, info.shape[0])
    return name in base.aliases().values() or (bool(config.get("tie_word_embeddings")) and words)


def _module_kinds(config: Mapping[str, Any] | None) -> dict[str, str]:
    """Kind of every module of the architecture a config names: linear, transposed, embedding or other.

    Returns:
        Nothing when the config names no architecture that transformers itself can build.
    """
    names = (config or {}).get("architectures") or []
    kind = (config or {}).get("model_type")
    if config is None or not kind or not names:
        return {}
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    architecture = getattr(transformers, str(names[0]), None)
    if architecture is None:
        return {}
    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        with torch.device("meta"):
            model = architecture(transformers.AutoConfig.for_model(kind, **settings))
    except Exception:
        # Whatever an architecture dislikes about a config, names and shapes still tell nearly everything.
        return {}
    classes = ((torch.nn.Linear, "linear"), (Conv1D, "transposed"), (torch.nn.Embedding, "embedding"))
    return {
        name: next((word for kind_of, word in classes if isinstance(module, kind_of)), "other")
        for name, module in model.named_modules()
    }
