"""Any model as a GGUF file: what llama.cpp has no form for is refused by name before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError, listed
from genepool.weights.gguf import writing
from genepool.weights.gguf.architectures import ROPE_FACTORS, GgufArchitecture, architecture_for, to_pairs
from genepool.weights.gguf.ggml_types import F32
from genepool.weights.gguf.settings import GgufSettings
from genepool.weights.gguf.tokenizer_writing import tokenizer_values
from genepool.weights.naming import in_memory_layout
from genepool.weights.quantised import quantised_by
from genepool.weights.ties import tied_names
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

# Buffers that old checkpoints store and every loader computes.
_COMPUTED = "rotary_emb.inv_freq"


def export_model(weights: Weights, out: Path, wanted: str, *, overwrite: bool = False) -> writing.Exported:
    """Writes a model for llama.cpp, with its tokenizer.

    Args:
        weights: any model; read in blocks of rows.
        out: the file, `.gguf`.
        wanted: how matrices are stored, one of `writing.TYPES`; vectors and norms are stored as F32.
        overwrite: replace what is at `out`.

    Raises:
        InputError: llama.cpp has no form for the architecture, a tensor, a setting or the tokenizer; a tensor holds
            NaN or infinity; `out` is taken.
    """
    writing.check_target(out, wanted, overwrite=overwrite)
    architecture, settings = settings_of(weights)
    # llama.cpp's names are told from those of transformers' class.
    weights = in_memory_layout(weights)
    tensors = list(_tensors(weights, architecture, settings, wanted))
    if weights.control is not None:
        progress.message(f"note: {weights.control.words} is not carried: see to it where you ask the model.")
    folder = weights.tokenizer_folder
    if folder is None:
        raise InputError("has no tokenizer", where=weights.name, fix="Copy the tokenizer of its base to it")
    rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    values: dict[str, Any] = {
        "general.type": "model",
        **{f"{architecture.name}.{key}": value for key, value in settings.values.items()},
        **tokenizer_values(folder, rows, weights.chat_template),
    }
    return writing.write(out, architecture.name, values, tensors, wanted, overwrite=overwrite)


def settings_of(weights: Weights) -> tuple[GgufArchitecture, GgufSettings]:
    """What a model is written as, and with which hyperparameters.

    Raises:
        InputError: it has no config, is quantised, or llama.cpp has no form for it.
    """
    if weights.config is None:
        raise InputError("has no config.json", where=weights.name, fix="Name the folder of the model")
    if quantised_by(weights):
        raise InputError("is a quantised model", where=weights.name, fix="Export the unquantised checkpoint")
    named = weights.config.get("architectures")
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    architecture = architecture_for(first, f"{weights.name}:architectures")
    return architecture, GgufSettings(weights.config, architecture, weights.name)


def _tensors(
    weights: Weights, architecture: GgufArchitecture, settings: GgufSettings, wanted: str
) -> Iterator[writing.Planned]:
    # llama.cpp ties as transformers does: a model without a head of its own reads its embedding there.
    tied = bool(weights.aliases()) or bool(tied_names(weights))
    names = [name for name in weights.names() if not name.endswith(_COMPUTED)]
    stored = {name: _place(architecture, name, weights) for name in names}
    _check_complete(stored, architecture, settings, tied, weights.name)
    if settings.factors:
        yield _factors(settings)
    for name, place in stored.items():
        info = weights.info(name)
        kind = writing.kind_of(place, info.shape, wanted)
        rows, step = _reader(weights, name, architecture.heads_of(place, settings.heads))
        yield writing.Planned(place, f"{weights.name}:{name}", info.shape, kind, rows, step)


def _place(architecture: GgufArchitecture, name: str, weights: Weights) -> str:
    place = architecture.stored_name(name)
    if place is None:
        raise InputError(
            f"llama.cpp has no place for it in a model of {architecture.name}",
            where=f"{weights.name}:{name}",
            fix="Keep the model in Hugging Face's layout",
        )
    info = weights.info(name)
    if not info.is_float or not info.shape:
        raise InputError(
            f"is stored as {info.dtype}, expected floats",
            where=f"{weights.name}:{name}",
            fix="Use the unquantised model",
        )
    return place


def _check_complete(
    stored: Mapping[str, str], architecture: GgufArchitecture, settings: GgufSettings, tied: bool, model: str
) -> None:
    layers = int(settings.values["block_count"])
    expected = {"token_embd.weight", "output_norm.weight", *(() if tied else ("output.weight",))}
    expected |= {f"blk.{i}.{inner}.weight" for i in range(layers) for inner in architecture.inside.values()}
    given = set(stored.values())
    if missing := sorted(expected - given):
        raise InputError(f"lacks {listed(missing, 4)}", where=model, fix="Name a whole model")
    beyond = [name for name, place in stored.items() if place.startswith("blk.") and int(place.split(".")[1]) >= layers]
    if beyond:
        raise InputError(
            f"belongs to no layer: config.json says {layers} layers",
            where=f"{model}:{beyond[0]}",
            fix="Correct its config.json",
        )


def _reader(weights: Weights, name: str, heads: int) -> tuple[Callable[[int, int], torch.Tensor], int]:
    """How rows of a tensor are read in llama.cpp's order, and in multiples of how many."""
    info = weights.info(name)
    if not heads:
        return lambda start, stop: weights.read_rows(name, start, stop), 1
    if info.shape[0] % (2 * heads):
        raise InputError(
            f"got {info.shape[0]} rows, expected an even number for each of {heads} heads",
            where=f"{weights.name}:{name}",
        )
    if len(info.shape) == 1:
        return lambda _start, _stop: to_pairs(weights.read(name).reshape(-1, 1), heads).reshape(1, -1), 1
    size = info.shape[0] // heads
    return lambda start, stop: to_pairs(weights.read_rows(name, start, stop), (stop - start) // size), size


def _factors(settings: GgufSettings) -> writing.Planned:
    def rows(_start: int, _stop: int) -> torch.Tensor:
        import torch

        return torch.tensor(settings.factors, dtype=torch.float32)[None]

    shape = (len(settings.factors),)
    return writing.Planned(ROPE_FACTORS, f"{settings.where}:rope_parameters", shape, F32, rows)
