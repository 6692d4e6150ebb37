"""Which modules and parameters an adapter's settings name, by PEFT's own rules.

Needed where the file does not tell it: for kinds whose tensors all modules share, and for fused experts, whose wrappers
the file numbers by depth alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of, why_unknown
from genepool.weights.peft.settings import AdapterSettings
from genepool.weights.weights import Weights


def targeted_modules(settings: AdapterSettings, base: Weights) -> list[str]:
    """The modules of a base that `target_modules` names, in the order of the model.

    Raises:
        InputError: the settings name none, or the architecture is not known.
    """
    architecture = architecture_of(base.config)
    if architecture is None:
        raise settings.error(
            "target_modules",
            f"which modules are meant is told by the model alone, and {why_unknown(base.config)}",
            "Merge the adapter with PEFT (merge_and_unload) and name the merged checkpoint",
        )
    wanted = settings.get("target_modules")
    linear = [name for name, kind in architecture.modules.items() if kind in ("linear", "transposed")]
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        found = [name for name in linear if name != architecture.output_embeddings]
    elif isinstance(wanted, str):
        found = [name for name in linear if settings.matches("target_modules", wanted, name, whole=True)]
    else:
        words = settings.names("target_modules")
        found = [name for name in linear if any(name == word or name.endswith(f".{word}") for word in words)]
        found = [name for name in found if _in_layers(name, settings)]
    if not found:
        raise settings.error("target_modules", f"names no linear layer of {base.name}")
    return found


def _in_layers(name: str, settings: AdapterSettings) -> bool:
    """Whether a module is in one of the layers that `layers_to_transform` names."""
    layers = settings.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    numbers = layers if isinstance(layers, list) else [layers]
    words, patterns = name.split("."), settings.names("layers_pattern")
    for place, word in enumerate(words[:-1]):
        if word.isdecimal() and place and (not patterns or words[place - 1] in patterns):
            return int(word) in numbers
    return False


def parameters_of(
    module: str, wrappers: Sequence[Mapping[str, str]], settings: AdapterSettings, base: Weights
) -> dict[str, Mapping[str, str]]:
    """The parameters of a module that are adapted -> the tensors for each.

    PEFT wraps the module once for each parameter, in the order the module defines them; the last is outermost.

    Args:
        module: the module, such as fused experts.
        wrappers: the tensors of each wrapper, the outermost first.
        settings: of the adapter.
        base: the model.

    Raises:
        InputError: the settings name another number of parameters.
    """
    architecture = architecture_of(base.config)
    known = base.names() if architecture is None else tuple(architecture.tensors)
    words = settings.names("target_parameters")
    named = [name for name in known if name.rpartition(".")[0] == module]
    named = [name for name in named if any(name == word or name.endswith(f".{word}") for word in words)]
    if len(named) != len(wrappers):
        raise InputError(
            f"target_parameters names {len(named)} parameters of {module}, and the file holds factors for "
            f"{len(wrappers)}",
            where=settings.path,
            fix="The adapter was made for another model: name the base it was trained on",
        )
    return dict(zip(reversed(named), wrappers, strict=True))
