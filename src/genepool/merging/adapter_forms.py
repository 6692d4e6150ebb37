"""In which form a PEFT adapter can hold the change of each tensor of a model, told by the kind of its module.

The model is built from its config without memory for its weights, so that a router or a position table that only looks
like a linear layer is known for what it is; names and shapes decide where that is not possible. Used by `as_lora`, and
where skills become adapters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genepool.weights import Role, TensorInfo, Weights

# linear, transposed, embedding: a product of two factors, for weights stored (out, in), (in, out), (tokens, width).
# whole: with the rest of its module, as one of `modules_to_save`. bias: as one of the biases of the base. none: not.
Kind = Literal["linear", "transposed", "embedding", "whole", "bias", "none"]
FACTORED: tuple[Kind, ...] = ("linear", "transposed", "embedding")
# Architectures whose linear layers are stored transposed (transformers' Conv1D).
_TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


@dataclass(frozen=True)
class Form:
    """How an adapter holds the change of one tensor.

    Attributes:
        kind: see `Kind`.
        module: dotted name of the module the tensor belongs to.
        reason: why it cannot be held; empty when it can.
    """

    kind: Kind
    module: str
    reason: str = ""


def adapter_form(name: str, info: TensorInfo, role: Role, base: Weights, modules: Mapping[str, str]) -> Form:
    """The form of one tensor's change.

    Args:
        name, info, role: the tensor.
        base: what the adapter will be put on.
        modules: module -> kind, as from `module_kinds`; empty when not known.
    """
    config = base.config or {}
    module, _, leaf = name.rpartition(".")
    known = modules.get(module)
    if modules and known is None:
        return Form("none", module, "transformers builds no module of this name, so PEFT finds none")
    axes = len(info.shape)
    if leaf == "weight" and axes == 2 and known != "other":
        linear = "transposed" if config.get("model_type") in _TRANSPOSED_MODELS else "linear"
        kind = known or ("embedding" if role.part == "embedding" else linear)
        if kind == "embedding" and _tied(name, info, base):
            return Form("none", module, "PEFT cannot adapt an embedding that is the head too")
        return Form(kind, module)  # type: ignore[arg-type]
    if leaf == "bias" and axes == 1 and (known in FACTORED or (known is None and role.part != "norm")):
        return Form("bias", module)
    if axes == 1 and module and (known == "other" or role.part == "norm"):
        return Form("whole", module)
    return Form("none", module, "PEFT has no adapter for this kind of tensor")


def _tied(name: str, info: TensorInfo, base: Weights) -> bool:
    config = base.config or {}
    words = config.get("vocab_size") in (None, info.shape[0])
    return name in base.aliases().values() or (bool(config.get("tie_word_embeddings")) and words)


def task_type(config: Mapping[str, Any] | None) -> str | None:
    """PEFT's word for what a model is for, where the class that loads it follows from that."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = (config or {}).get("architectures") or []
    return "CAUSAL_LM" if names and names[0] in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else None


def module_kinds(config: Mapping[str, Any] | None) -> dict[str, str]:
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


def adapter_config(
    base: Weights,
    reference: tuple[str, str | None],
    factored: Mapping[str, tuple[int, float]],
    *,
    whole: Collection[str],
    biases: bool,
    transposed: bool,
) -> dict[str, Any]:
    """adapter_config.json, as PEFT writes it.

    Args:
        base: what the adapter belongs to.
        reference: how PEFT finds the base again: a path or hub name, and a revision.
        factored: module -> (rank, alpha) of its factors; at least one.
        whole: modules that go along whole.
        biases: whether the base's biases go along.
        transposed: whether the factored layers store their weights as (in, out).
    """
    rank = max(rank for rank, _ in factored.values())
    counts = Counter(alpha for of, alpha in factored.values() if of == rank)
    alpha = counts.most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": task_type(base.config),
        "base_model_name_or_path": reference[0],
        "revision": reference[1],
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {module: of for module, (of, _) in factored.items() if of != rank},
        "alpha_pattern": {module: of for module, (_, of) in factored.items() if of != alpha},
        "target_modules": _targets(factored, base),
        "modules_to_save": sorted(whole) or None,
        "bias": "all" if biases else "none",
        "fan_in_fan_out": transposed,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _targets(factored: Collection[str], base: Weights) -> list[str]:
    """The last words of the adapted modules' names where those mean no others, else their whole names."""
    others = {name.rpartition(".")[0] for name in (*base.names(), *base.aliases())} - set(factored)
    ambiguous = {module.rpartition(".")[2] for module in others}
    leaves = {module: module.rpartition(".")[2] for module in factored}
    return sorted({module if leaf in ambiguous else leaf for module, leaf in leaves.items()})
