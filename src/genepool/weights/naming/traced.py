"""Tensors without values that remember what is done to them: what transformers' own conversions are run on.

transformers says how the tensors of a file become those of a model in code (stack these, cut that in three), not in
data. Run on `Traced` tensors, that code leaves a `View` of each result, without a byte read and without a copy of its
rules here. `conversion` uses this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from genepool.weights.naming.views import View, cut, joined, permuted, reshaped


class Traced(torch.Tensor):
    """A tensor that is a `View` and nothing else.

    Attributes:
        made_of: the view.
    """

    made_of: View

    @staticmethod
    def __new__(cls, view: View) -> Traced:
        make = torch.Tensor._make_wrapper_subclass
        traced: Traced = make(cls, view.shape, dtype=torch.float32, device=torch.device("cpu"))
        traced.made_of = view
        return traced

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        follow = _FOLLOWED.get(func.overloadpacket.__name__)
        if follow is None:
            raise NotImplementedError(f"{func} does more than move entries to other places")
        found = follow(*_views(args), **{key: value for key, value in (kwargs or {}).items() if key == "dim"})
        return Traced(found) if isinstance(found, View) else [Traced(view) for view in found]


def _views(value: Any) -> Any:
    if isinstance(value, Traced):
        return value.made_of
    return [_views(one) for one in value] if isinstance(value, list | tuple) else value


def _same(view: View, *_: object) -> View:
    return view


def _part(view: View, dim: int, start: int, stop: int) -> View:
    box = list(view.full)
    box[dim] = (start, stop)
    return cut(view, tuple(box))


def _cat(views: Sequence[View], dim: int = 0) -> View:
    first = views[0].shape
    dim %= len(first)
    pieces, start = [], 0
    for view in views:
        if view.shape[:dim] != first[:dim] or view.shape[dim + 1 :] != first[dim + 1 :]:
            raise ValueError(f"shapes {list(first)} and {list(view.shape)} do not fit along axis {dim}")
        box = list(view.full)
        box[dim] = (start, start + view.shape[dim])
        pieces.append((tuple(box), view))
        start += view.shape[dim]
    return joined((*first[:dim], start, *first[dim + 1 :]), pieces)


def _stack(views: Sequence[View], dim: int = 0) -> View:
    return _cat([_unsqueeze(view, dim) for view in views], dim)


def _split(view: View, size: int, dim: int = 0) -> list[View]:
    length = view.shape[dim]
    return _split_with_sizes(view, [min(size, length - start) for start in range(0, length, size)], dim)


def _split_with_sizes(view: View, sizes: Sequence[int], dim: int = 0) -> list[View]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    dim %= len(view.shape)
    return [_part(view, dim, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _unbind(view: View, dim: int = 0) -> list[View]:
    return [_select(view, dim, index) for index in range(view.shape[dim])]


def _select(view: View, dim: int, index: int) -> View:
    dim %= len(view.shape)
    index %= view.shape[dim]
    return _squeeze(_part(view, dim, index, index + 1), dim)


def _slice(view: View, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> View:
    if step != 1:
        raise NotImplementedError(f"a slice with a step of {step}")
    dim %= len(view.shape)
    first, last, _ = slice(start, stop).indices(view.shape[dim])
    return _part(view, dim, first, last)


def _transpose(view: View, one: int, other: int) -> View:
    order = list(range(len(view.shape)))
    order[one], order[other] = order[other], order[one]
    return permuted(view, tuple(order))


def _permute(view: View, order: Sequence[int]) -> View:
    return permuted(view, tuple(axis % len(order) for axis in order))


def _reshape(view: View, shape: Sequence[int]) -> View:
    known = math.prod(size for size in shape if size != -1)
    wanted = tuple(math.prod(view.shape) // known if size == -1 else size for size in shape)
    if math.prod(wanted) != math.prod(view.shape):
        raise ValueError(f"shape {list(view.shape)} is no {list(shape)}")
    return reshaped(view, wanted)


def _squeeze(view: View, dim: int) -> View:
    dim %= len(view.shape)
    return reshaped(view, (*view.shape[:dim], *view.shape[dim + 1 :])) if view.shape[dim] == 1 else view


def _unsqueeze(view: View, dim: int) -> View:
    dim %= len(view.shape) + 1
    return reshaped(view, (*view.shape[:dim], 1, *view.shape[dim:]))


_FOLLOWED: dict[str, Callable[..., View | Sequence[View]]] = {
    "alias": _same,
    "detach": _same,
    "clone": _same,
    "_to_copy": _same,
    "cat": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split_with_sizes,
    "unbind": _unbind,
    "select": _select,
    "slice": _slice,
    "transpose": _transpose,
    "permute": _permute,
    "t": lambda view: _transpose(view, 0, 1),
    "view": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}
