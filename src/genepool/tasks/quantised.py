"""A quantised model in memory: its checkpoint as transformers and the quantiser load it, and PEFT's adapters on it.

Nothing here knows a quantiser: transformers reads `quantization_config` and imports what that needs. Used by
`pretrained`, which builds all other networks tensor by tensor, a quantised one too where its quantiser cannot.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError, one_line
from genepool.weights import BaseWithChange, Checkpoint, Weights
from genepool.weights.dequantised import DequantisedCheckpoint
from genepool.weights.peft.adapter import PeftAdapter
from genepool.weights.peft.folder import CONFIG_FILE
from genepool.weights.quantised import quantised_by
from genepool.weights.quantised_base import QuantisedBase

if TYPE_CHECKING:
    import torch

# What transformers calls a method -> what has to be installed for it.
_NEEDED = {
    "bitsandbytes": "pip install 'genepool[quantised]'", "torchao": "pip install torchao", "hqq": "pip install hqq",
    "quanto": "pip install optimum-quanto", "gptq": "pip install gptqmodel", "awq": "pip install gptqmodel",
    "compressed-tensors": "pip install compressed-tensors",
}  # fmt: skip


def packed_network(weights: Weights, architecture: Any, kind: torch.dtype) -> Any | None:
    """The network of a quantised checkpoint, with adapters or without, as its quantiser computes it.

    Args:
        weights: the model.
        architecture: transformers' class.
        kind: what is computed in where nothing is quantised.

    Returns:
        None where it is no such model, or its quantiser is not here or cannot load it: the network is then made of
        dequantised tensors, which takes more memory.
    """
    if (base := _adapted(weights)) is None:
        return None
    reason = f"{base.scheme.library} is not installed" if base.scheme.library else ""
    reason = base.scheme.misread() or reason
    if packed_base(weights) is not None:
        from genepool.weights.meta_model import read_config

        config = read_config(architecture.config_class, base.stored.config or {})
        try:
            return quantised_network(weights, architecture, config, kind)
        except InputError as error:
            reason = error.what
    _say_once(f"note: {base.name} is {base.told()}{': ' if reason else ''}{reason}.")
    return None


def packed_base(weights: Weights) -> Checkpoint | None:
    """The quantised checkpoint that a network is computed from as it is stored; None where it is dequantised first."""
    base = _adapted(weights)
    library = "" if base is None else base.scheme.library
    if base is None or not library or find_spec(library) is None or base.scheme.misread():
        return None
    return base.stored


def _adapted(weights: Weights) -> DequantisedCheckpoint | None:
    """The quantised checkpoint that a model is, or is with adapters; None for any other model."""
    try:
        base, _ = _taken_apart(weights)
    except InputError:
        return None
    return base if isinstance(base, DequantisedCheckpoint) and base.packed else None


@cache
def _say_once(text: str) -> None:
    progress.message(text)


def quantised_network(weights: Weights, architecture: Any, config: Any, kind: torch.dtype) -> Any:
    """transformers' network of a quantised checkpoint, or of one with an adapter.

    Args:
        weights: the checkpoint, or the checkpoint with an adapter.
        architecture: transformers' class.
        config: its config.
        kind: what is computed in where nothing is quantised.

    Raises:
        InputError: the quantiser is not installed or cannot load it here, or something other than an adapter is put on
            it.
    """
    base, adapters = _taken_apart(weights)
    method = quantised_by(base.stored if isinstance(base, DequantisedCheckpoint) else base)
    # bitsandbytes tells of kernels that it could download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _without_adapter(base.folder) as folder:
                model = architecture.from_pretrained(folder, config=config, dtype=kind, trust_remote_code=False)
            for module in model.modules():
                # bitsandbytes repacks a layer that is asked on some processors, with rounded scales and for good: what
                # was asked could not be trained on, and would be another model than the one in training.
                if getattr(module, "support_avx512bf16_for_cpu", False):
                    module.support_avx512bf16_for_cpu = False
            for adapter in adapters:
                model = _with_adapter(model, adapter)
    except ImportError as error:
        raise InputError(
            f"quantised by {method}, which is not installed ({one_line(error)})",
            where=base.name,
            fix=f"Install it: {_NEEDED[method]}" if method in _NEEDED else "Name the unquantised checkpoint",
        ) from None
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"quantised by {method}, which cannot load it here ({one_line(error)})",
            where=base.name,
            fix="Name the unquantised checkpoint",
        ) from None
    return model.eval()


@contextmanager
def _without_adapter(folder: Path | None) -> Iterator[Path | None]:
    """The folder as transformers is to see it: an adapter that lies in it would be put on the model unasked."""
    if folder is None or not (folder / CONFIG_FILE).exists():
        yield folder
        return
    with TemporaryDirectory(prefix="genepool-") as made:
        for entry in folder.iterdir():
            if not entry.name.startswith("adapter_"):
                (Path(made) / entry.name).symlink_to(entry.resolve())
        yield Path(made)


def _taken_apart(weights: Weights) -> tuple[Weights, list[PeftAdapter]]:
    """The checkpoint and the adapters on it, in the order they were put on."""
    adapters: list[PeftAdapter] = []
    while isinstance(weights, BaseWithChange):
        if not isinstance(weights.change, PeftAdapter):
            raise InputError(
                "only PEFT adapters can be put on a quantised model",
                where=weights.name,
                fix="Put it on the unquantised checkpoint",
            )
        adapters.insert(0, weights.change)
        weights = weights.base
    return (weights.base if isinstance(weights, QuantisedBase) else weights), adapters


def _with_adapter(model: Any, adapter: PeftAdapter) -> Any:
    """The network with PEFT's layers beside its own, which are left quantised."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter.path), is_trainable=False).get_base_model()
