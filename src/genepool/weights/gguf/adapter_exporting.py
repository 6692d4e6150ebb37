"""A change of low rank as a LoRA adapter of llama.cpp's: two factors for each matrix, one alpha for all of them.

llama.cpp adds `scale * alpha / rank * B @ A`, with the rank of each pair (its src/llama-adapter.cpp). Factors and names
go where its convert_lora_to_gguf.py puts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from genepool.errors import InputError
from genepool.weights.change import Change
from genepool.weights.gguf import writing
from genepool.weights.gguf.architectures import GgufArchitecture, to_pairs
from genepool.weights.gguf.exporting import settings_of
from genepool.weights.gguf.settings import GgufSettings
from genepool.weights.naming import change_in_memory_layout
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

EMBEDDING = "token_embd.weight"


class _Pair(NamedTuple):
    """A tensor's two factors: its name, llama.cpp's, its heads where rows are ordered by pairs, and its own alpha."""

    name: str
    place: str
    heads: int
    alpha: float


def export_adapter(
    change: Change, base: Weights, out: Path, wanted: str, *, overwrite: bool = False
) -> writing.Exported:
    """Writes a change for llama.cpp, to be put on the GGUF file of its base.

    Args:
        change: of low rank everywhere, such as an adapter or a skill of low rank.
        base: the model it belongs to; only its config and its names are used.
        out: the file, `.gguf`.
        wanted: how factors are stored, one of `writing.TYPES`.
        overwrite: replace what is at `out`.

    Raises:
        InputError: the change is not of low rank, llama.cpp has no place for it, or `out` is taken.
    """
    writing.check_target(out, wanted, overwrite=overwrite)
    architecture, settings = settings_of(base)
    change = change_in_memory_layout(change)
    base = change.base or base
    pairs = [_pair(change, name, base, architecture, settings) for name in change.names() if change.moves(name)]
    if not pairs:
        raise InputError("changes nothing", where=change.name, fix="Name an adapter or a skill")
    alpha = pairs[0].alpha
    tensors = [tensor for pair in pairs for tensor in _tensors(change, pair, alpha, wanted)]
    values = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    return writing.write(out, architecture.name, values, tensors, wanted, overwrite=overwrite)


def _pair(change: Change, name: str, base: Weights, architecture: GgufArchitecture, settings: GgufSettings) -> _Pair:
    where = f"{change.name}:{name}"
    stored = base.aliases().get(name, name)
    place = architecture.stored_name(stored)
    product = change.factors(name)
    if product is None:
        raise InputError(
            "its change is not a product of two factors, which is all that llama.cpp's adapters hold",
            where=where,
            fix="Export BASE+IT as a model, or bring it to low rank: genepool skill compress or skill extract --rank",
        )
    if place is None or stored != name:
        raise InputError("llama.cpp has no place for it in an adapter", where=where, fix="Export BASE+IT as a model")
    return _Pair(name, place, architecture.heads_of(place, settings.heads), product.factor * product.left.shape[1])


def _tensors(change: Change, pair: _Pair, alpha: float, wanted: str) -> Iterator[writing.Planned]:
    product = change.factors(pair.name)
    assert product is not None
    (rows, rank), columns = product.left.shape, product.right.shape[1]
    # What one alpha cannot say of this pair goes into its second factor.
    share = pair.alpha / alpha
    # The rows of an embedding are looked up, so its first factor is stored the other way round.
    turned = pair.place == EMBEDDING
    shapes = {"lora_a": (columns, rank) if turned else (rank, columns), "lora_b": (rows, rank)}
    for factor, shape in shapes.items():
        name = f"{pair.place}.{factor}"
        reader = _reader(change, pair, factor, share, turned)
        yield writing.Planned(
            name, f"{change.name}:{pair.name}", shape, writing.kind_of(name, shape, wanted), reader, shape[0]
        )


def _reader(change: Change, pair: _Pair, factor: str, share: float, turned: bool) -> Callable[[int, int], torch.Tensor]:
    """Gives one factor, whole: it is read when it is written."""

    def rows(_start: int, _stop: int) -> torch.Tensor:
        product = change.factors(pair.name)
        assert product is not None
        if factor == "lora_a":
            return product.right.mT if turned else product.right
        left = product.left if share == 1 else product.left.float() * share
        return to_pairs(left, pair.heads) if pair.heads else left

    return rows
