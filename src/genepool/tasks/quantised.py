"""A quantised model in memory: its checkpoint as transformers and the quantiser load it, and PEFT's adapters on it.

Nothing here knows a quantiser: transformers reads `quantization_config` and imports what that needs. Used by
`pretrained`, which builds all other networks tensor by tensor.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import BaseWithChange, Weights
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
    method = quantised_by(base)
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
            f"quantised by {method}, which is not installed ({_line(error)})",
            where=base.name,
            fix=f"Install it: {_NEEDED[method]}" if method in _NEEDED else "Name the unquantised checkpoint",
        ) from None
    except (ValueError, RuntimeError, OSError, AttributeError, KeyError) as error:
        raise InputError(
            f"quantised by {method}, which cannot load it here ({_line(error)})",
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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
