"""PEFT's prefix tuning and prompt tuning as the forms `prefix` and `prompt`, both ways.

A prompt is the same tensor in both. A prefix is one row a vector in PEFT, with the keys and the values of all layers
side by side, and its keys are ours turned by the length of the prefix (`rotary`). What a file says is checked before a
tensor is read. `BASE+ADAPTER` opens one; `genepool export --type peft` writes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import fingerprint_cache
from genepool.weights.adapter_forms import make_form
from genepool.weights.formats import open_adapter
from genepool.weights.formed.form_on_base import FormOnBase
from genepool.weights.formed.formed_weights import FormedWeights
from genepool.weights.formed.prefix_attention import heads_of, layers_of
from genepool.weights.formed.rotary import turned
from genepool.weights.formed.sites import sites_of
from genepool.weights.json_file import read_json
from genepool.weights.peft.folder import CONFIG_FILE
from genepool.weights.peft.prompt_settings import PROMPTS
from genepool.weights.peft.settings import AdapterSettings
from genepool.weights.tensor_info import shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "adapter_model.safetensors"
#: What PEFT calls the only tensor.
TENSOR = "prompt_embeddings"
_AGAIN = "Save it again with PEFT"
_FLOATS = ("F64", "F32", "F16", "BF16")


class PeftPrompt(FormOnBase):
    """An adapter of PEFT's prefix or prompt tuning on its base; headers are read and checked.

    Args:
        path: its folder.
        base: the model that it was trained on, which PEFT's files do not tell for certain.
        allow_pickle: take `adapter_model.bin` where there is no safetensors file.

    Raises:
        InputError: a setting is unknown or asks for what the form has not, or the tensor is none of this base.
    """

    def __init__(self, path: Path, base: Weights, *, allow_pickle: bool = False) -> None:
        self.path, self.base = path, base
        place = path / CONFIG_FILE
        values = read_json(place)
        name, known = PROMPTS[str(values.get("peft_type"))]
        settings = AdapterSettings(values, place, known)
        if (task := settings.get("task_type")) not in (None, "CAUSAL_LM"):
            raise settings.error("task_type", f"got {task!r}, expected CAUSAL_LM")
        self._file = open_adapter(path, allow_pickle)
        length = settings.integer("num_virtual_tokens", self._length(), 1)
        if length != self._length():
            raise settings.error("num_virtual_tokens", f"got {length}, and the file has {self._length()}")
        self.form = make_form(name, {"length": length}, (), str(place))
        self.sites = sites_of(base)
        refuse_elsewhere(base, self.sites.where)
        shapes = self.form.shapes(self.sites)
        if self.sites.heads:
            raise InputError("is a classifier, expected a model that writes", where=self.sites.where, fix="Name one")
        expected = _flat_shape(shapes, length)
        if (found := self._file.infos[TENSOR].shape) != expected:
            raise InputError(
                f"has shape {shape_text(found)}, expected {list(expected)} for {base.name}",
                where=f"{self._file.path}:{TENSOR}",
                fix="Name the base that it was trained on",
            )

    def _length(self) -> int:
        infos = self._file.infos
        for name in infos:
            if name != TENSOR:
                raise InputError("is not a known tensor of prompts", where=f"{self._file.path}:{name}", fix=_AGAIN)
        info = infos.get(TENSOR)
        if info is None:
            raise InputError("the tensor is missing", where=f"{self._file.path}:{TENSOR}", fix=_AGAIN)
        if len(info.shape) != 2 or not info.shape[0] or info.dtype not in _FLOATS:
            raise InputError(
                f"is {info.dtype} of shape {shape_text(info.shape)}, expected rows of floats",
                where=f"{self._file.path}:{TENSOR}",
                fix=_AGAIN,
            )
        return info.shape[0]

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        import torch

        flat = self._file.read(TENSOR).float()
        if not bool(torch.isfinite(flat).all()):
            raise InputError("holds NaN or infinity", where=f"{self._file.path}:{TENSOR}", fix=_AGAIN)
        if self.form.name == "prompt":
            return {"embeddings": flat}
        heads, size = heads_of(self.sites)
        # (2 x layers, heads, length, entries): the key and the value of each layer stand beside each other.
        cut = flat.view(len(flat), -1, heads, size).permute(1, 2, 0, 3)
        found = {}
        for layer in range(layers_of(self.sites)):
            found[f"{layer}.key"] = turned(self.base, cut[2 * layer].contiguous(), -len(flat))
            found[f"{layer}.value"] = cut[2 * layer + 1].contiguous()
        return found

    def digest(self) -> str:
        return fingerprint_cache.cached([self._file.path, self.path / CONFIG_FILE], self._hash)

    def _hash(self) -> str:
        total = hashlib.sha256(f"peft {self.form.name}\x1f{self._file.infos[TENSOR]}\x1f".encode())
        total.update(self._file.read(TENSOR).float().contiguous().numpy().tobytes())
        return total.hexdigest()


def is_peft_prompt(path: Path) -> bool:
    """Whether a path is the folder of such an adapter."""
    place = path / CONFIG_FILE
    return place.is_file() and read_json(place).get("peft_type") in list(PROMPTS)


def peft_prompt_on(base: Weights, path: Path, name: str, *, allow_pickle: bool = False) -> FormedWeights:
    """A base with such an adapter, to be asked.

    Raises:
        InputError: as `PeftPrompt`.
    """
    return FormedWeights(base, PeftPrompt(path, base, allow_pickle=allow_pickle), name)


def write_peft_prompt(formed: FormedWeights, folder: Path, reference: str) -> str:
    """Writes a form as PEFT's adapter, which computes the same; what it is, in words.

    Args:
        formed: a base with a form.
        folder: is there, and empty.
        reference: how PEFT finds the base again.

    Raises:
        InputError: PEFT has no such form, or something of it would be lost.
    """
    from safetensors.torch import save_file

    form = formed.formed.form
    kind = next((kind for kind, (name, _) in PROMPTS.items() if name == form.name), None)
    if kind is None:
        raise InputError(
            f"PEFT has nothing that does what the form {form.name} does: {form.why_no_fold}, so the numbers alone "
            "would be written, and what computes with them would be lost",
            where=formed.formed.path,
            fix="Use the folder as it is",
        )
    sites = formed.formed.sites
    if sites.heads:
        raise InputError(
            "the head of classes that was trained beside it would be lost",
            where=formed.formed.path,
            fix="Use the folder as it is",
        )
    refuse_elsewhere(formed.base, sites.where)
    flat = _flat(formed)
    length = len(flat)
    config: dict[str, Any] = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": reference,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "num_transformer_submodules": 1,
        "num_layers": layers_of(sites),
    }
    heads, size = heads_of(sites)
    if kind == "PREFIX_TUNING":
        config |= {"token_dim": heads * size, "num_attention_heads": heads, "prefix_projection": False}
    else:
        config |= {"token_dim": flat.shape[1], "prompt_tuning_init": "RANDOM"}
    save_file({TENSOR: flat.contiguous()}, folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return f"an adapter of PEFT's {kind.lower().replace('_', ' ')}"


def _flat(formed: FormedWeights) -> torch.Tensor:
    """The tensor of PEFT's file, (length, entries)."""
    import torch

    tensors, sites = formed.formed.tensors, formed.formed.sites
    if formed.formed.form.name == "prompt":
        return tensors["embeddings"].clone()
    rows = []
    for layer in range(layers_of(sites)):
        key = tensors[f"{layer}.key"]
        rows += [turned(formed.base, key, key.shape[1]), tensors[f"{layer}.value"]]
    return torch.stack(rows).permute(2, 0, 1, 3).flatten(1)


def _flat_shape(shapes: Mapping[str, tuple[int, ...]], length: int) -> tuple[int, int]:
    """The shape of PEFT's tensor for a form of these shapes."""
    total = 0
    for shape in shapes.values():
        entries = 1
        for axis in shape:
            entries *= axis
        total += entries
    return length, total // length


def refuse_elsewhere(base: Weights, where: str) -> None:
    """Refuses models in which PEFT's prompts move out of sight: there the two answer differently.

    Raises:
        InputError: attention reaches back a limited number of places.
    """
    from transformers import DynamicCache

    from genepool.weights.meta_model import model_of

    model = model_of(base.config)
    if model is not None and any(
        getattr(layer, "is_sliding", False) for layer in DynamicCache(config=model.config).layers
    ):
        raise InputError(
            "its attention reaches back a limited number of places, behind which PEFT's vectors are lost and "
            "genepool's are not",
            where=where,
            fix="Use it with what trained it",
        )
