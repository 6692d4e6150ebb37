"""Sketches of changes: a few thousand numbers by which skills are compared without reading them.

A count sketch (Charikar, Chen & Farach-Colton 2002): every entry of the change is added, with a random sign, to one of
`WIDTH` random places. Which ones depends on the tensor's name and the entry's place in it alone, so the sketch is
linear in the change and the same in whatever form the change is stored; the cosine of two sketches estimates the cosine
of the changes, with a standard error of about 1/sqrt(WIDTH) where they have little in common and less where they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool import progress, seeding
from genepool.errors import InputError
from genepool.weights import Change
from genepool.weights.change import block_rows
from genepool.weights.roles import infer_roles
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

WIDTH, LAYER_WIDTH = 1024, 128
# Part of the seed: raise it when what a sketch is changes, so that old ones are told from new ones.
VERSION = 1
# Hashes of four entries come out of one draw of 64 bits: of each 16 the highest is its sign, the next 10 its place.
_ENTRIES_A_DRAW, _UNUSED_BITS = 4, 5


@dataclass(frozen=True)
class Sketch:
    """What is kept of a change.

    Attributes:
        whole: `(WIDTH,)` float32, of all tensors.
        layers: `(LAYER_WIDTH,)` float32, of the tensors of one layer, or of one part outside the layers.
        squared: sum of the squares of the change's entries.
    """

    whole: Array
    layers: Mapping[str, Array]
    squared: float


def sketch(changes: Change) -> Sketch:
    """Sketches a change, a block of rows at a time.

    Raises:
        InputError: an entry is NaN or infinite, or cannot be read.
    """
    import numpy as np

    whole = np.zeros(WIDTH)
    layers: dict[str, NDArray[np.float64]] = {}
    squared = 0.0
    groups = layer_of({name: changes.shape(name) for name in changes.names()})
    total = sum(changes.numel(name) for name in changes.names())
    with progress.bar("sketching", total, "entries") as bar:
        for name in changes.names():
            found = np.zeros(WIDTH)
            generator = seeding.numpy_generator(VERSION, "sketch", name)
            rows, columns = changes.matrix(name)
            draws = -(-columns // _ENTRIES_A_DRAW)
            for start, stop in block_rows(rows, columns):
                values = changes.rows(name, start, stop).double().numpy().reshape(-1)
                squared += float(values @ values)
                # Rows come in turn and each takes whole draws, so the blocks' sizes do not matter.
                drawn = generator.bit_generator.random_raw((stop - start) * draws).astype("<u8", copy=False)
                bits = drawn.view("<u2").reshape(stop - start, -1)[:, :columns].reshape(-1)
                # The upper half of the places takes what is added, the lower half what is taken away.
                sums = np.bincount(bits >> _UNUSED_BITS, weights=values, minlength=2 * WIDTH)
                found += sums[WIDTH:] - sums[:WIDTH]
                bar.advance(len(values))
            if not np.isfinite(squared):
                raise InputError(f"the change of {name} is NaN or infinite", fix="Make or fetch the skill again")
            whole += found
            # A narrower sketch is a wide one folded.
            layer = layers.setdefault(groups[name], np.zeros(LAYER_WIDTH))
            layer += found.reshape(-1, LAYER_WIDTH).sum(0)
    return Sketch(whole.astype(np.float32), {name: each.astype(np.float32) for name, each in layers.items()}, squared)


def layer_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """What layer each tensor belongs to ("model.layers.3"), or what part outside the layers ("embedding")."""
    roles = infer_roles({name: TensorInfo(shape, "F32") for name, shape in shapes.items()})
    return {
        name: role.part if role.layer is None else f"{role.stack}.{role.layer}".lstrip(".")
        for name, role in roles.items()
    }


def cosines(one: Array, others: Array) -> NDArray[np.float64]:
    """Estimated cosines of one change with several.

    Args:
        one: a sketch, `(width,)`.
        others: sketches, `(count, width)`.

    Returns:
        `(count,)`, each in [-1, 1]; 0 where nothing is to be compared.
    """
    import numpy as np

    lengths = np.linalg.norm(others.astype(np.float64), axis=1) * np.linalg.norm(one.astype(np.float64))
    products = others.astype(np.float64) @ one.astype(np.float64)
    found: NDArray[np.float64] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return found.clip(-1.0, 1.0)


def plane(sketches: Sequence[Array]) -> NDArray[np.float64]:
    """Places in the plane whose distances are close to 1 less the cosine (classical multidimensional scaling).

    Args:
        sketches: one for each skill.

    Returns:
        `(count, 2)`, centred, along the axes of largest spread.
    """
    import numpy as np

    count = len(sketches)
    if count < 2:
        return np.zeros((count, 2))
    stacked = np.stack(sketches)
    distances = np.stack([1.0 - cosines(each, stacked) for each in stacked])
    np.fill_diagonal(distances, 0.0)
    squares = distances**2
    centred = squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean()
    values, vectors = np.linalg.eigh(-(centred + centred.T) / 4)
    places = np.zeros((count, 2))
    for axis in range(2):
        along = vectors[:, -1 - axis] * np.sqrt(max(values[-1 - axis], 0.0))
        # An eigenvector has no direction of its own: the farthest point goes to the positive side.
        places[:, axis] = along if along[np.argmax(np.abs(along))] >= 0 else -along
    return places
