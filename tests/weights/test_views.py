"""Tensors made of parts of others: whatever places torch moves entries to, a view reads the same, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from genepool.weights.naming.inversion import inverted
from genepool.weights.naming.traced import Traced
from genepool.weights.naming.views import Leaf, View

Shapes = Sequence[tuple[int, ...]]
Moves = Callable[[list[torch.Tensor]], list[torch.Tensor]]


def _rotary(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(2, 3, 2, 5).transpose(1, 2).reshape(12, 5)


# Each is a way in which transformers turns a file's tensors into those of a model, or one made of two.
MOVES: dict[str, tuple[Shapes, Moves]] = {
    "experts stacked, gate beside up": (
        [(4, 3)] * 8,
        lambda t: [torch.cat([torch.stack(t[:4]), torch.stack(t[4:])], dim=1)],
    ),
    "the same, turned": (
        [(4, 3)] * 4,
        lambda t: [torch.cat([torch.stack(t[:2]), torch.stack(t[2:])], dim=1).transpose(1, 2).contiguous()],
    ),
    "a fused matrix cut in three": ([(12, 5)], lambda t: list(torch.chunk(t[0], 3))),
    "cut in parts of other sizes": ([(12, 5)], lambda t: list(torch.split(t[0], [6, 2, 4]))),
    "a stack cut to experts": ([(4, 6, 3)], lambda t: [one.squeeze(0) for one in torch.chunk(t[0], 4)]),
    "rows in the order of rotary halves": ([(12, 5)], lambda t: [_rotary(t[0])]),
    "the same, cut": ([(12, 5)], lambda t: list(torch.split(_rotary(t[0]), [4, 8]))),
    "columns interleaved": (
        [(3, 12, 5)],
        lambda t: [t[0].reshape(3, 6, 2, 5).transpose(1, 2).reshape(3, 12, 5)],
    ),
    "a kernel flattened": ([(4, 3, 2, 2, 2)], lambda t: [t[0].reshape(4, -1)]),
    "a bias in halves": ([(8,)], lambda t: [t[0].view(2, 4).transpose(0, 1).reshape(8)]),
    "a scalar": ([()], lambda t: [t[0].reshape(1)]),
}


def _traced(shapes: Shapes) -> list[torch.Tensor]:
    return [Traced(Leaf(str(place), shape)) for place, shape in enumerate(shapes)]


def _rows(tensors: Sequence[torch.Tensor]) -> Callable[[str, int, int], torch.Tensor]:
    def rows(name: str, start: int, stop: int) -> torch.Tensor:
        tensor = tensors[int(name)]
        return tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)[start:stop]

    return rows


def _views(made: Sequence[torch.Tensor]) -> list[View]:
    found = []
    for one in made:
        assert isinstance(one, Traced)
        found.append(one.made_of)
    return found


@pytest.mark.parametrize("kind", MOVES)
def test_a_view_reads_what_torch_makes(kind: str) -> None:
    shapes, move = MOVES[kind]
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in shapes]
    draw = random.Random(0)
    for view, expected in zip(_views(move(_traced(shapes))), move(tensors), strict=True):
        assert view.shape == expected.shape
        assert torch.equal(view.read(view.full, _rows(tensors)), expected)
        matrix = expected.reshape(-1, expected.shape[-1])
        for _ in range(12):
            start = draw.randrange(len(matrix))
            stop = draw.randrange(start, len(matrix)) + 1
            assert torch.equal(view.read_rows(start, stop, _rows(tensors)), matrix[start:stop])


@pytest.mark.parametrize("kind", MOVES)
def test_turned_round_twice_it_is_what_it_was(kind: str) -> None:
    shapes, move = MOVES[kind]
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in shapes]
    made = move(tensors)
    back = inverted({str(place): view for place, view in enumerate(_views(move(_traced(shapes))))})
    for place, tensor in enumerate(tensors):
        view = back[str(place)]
        assert torch.equal(view.read(view.full, _rows(made)), tensor)


def test_what_is_put_together_and_cut_apart_again_is_the_stored_tensor() -> None:
    parts = _traced([(4, 3)] * 8)
    stacked = torch.cat([torch.stack(parts[:4]), torch.stack(parts[4:])], dim=1)
    up = [one.squeeze(0) for one in torch.chunk(torch.chunk(stacked, 2, dim=1)[1], 4)]
    assert _views(up) == [Leaf(str(place), (4, 3)) for place in range(4, 8)]


def test_one_expert_is_read_and_no_other() -> None:
    parts = _traced([(4, 3)] * 6)
    (view,) = _views([torch.stack(parts)])
    asked = []

    def rows(name: str, start: int, stop: int) -> torch.Tensor:
        asked.append((name, start, stop))
        return torch.zeros(stop - start, 3)

    view.read_rows(9, 14, rows)
    assert asked == [("2", 1, 4), ("3", 0, 2)]


def test_what_computes_is_not_followed() -> None:
    (one,) = _traced([(4, 3)])
    with pytest.raises(NotImplementedError, match="does more than move entries"):
        one * 2
