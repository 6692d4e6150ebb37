"""The classes of transformers' `AutoModel*` mappings."""

from __future__ import annotations


def classes() -> dict[str, str]:
    """Every class of a mapping of models, by name -> the model_type of its config, in alphabetical order."""
    from transformers.models.auto import modeling_auto

    kinds: dict[str, set[str]] = {}
    for mapping in sorted(vars(modeling_auto)):
        if mapping.startswith("MODEL") and mapping.endswith("MAPPING_NAMES"):
            for kind, named in getattr(modeling_auto, mapping).items():
                for name in named if isinstance(named, list | tuple) else [named]:
                    kinds.setdefault(name, set()).add(kind)
    # Some models borrow the class of another (GPT-SW3 that of GPT-2), whose own type has the shorter name.
    return {name: min(found, key=lambda kind: (len(kind), kind)) for name, found in sorted(kinds.items())}
