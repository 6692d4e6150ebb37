"""How alike two skills are, exactly: direction, signs, the regions they change most, and the subspaces they use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError
from genepool.kernels.selection import MagnitudeSelection, keep_count
from genepool.skills.sketch import layer_of
from genepool.weights import Change
from genepool.weights.change import block_rows
from genepool.weights.tensor_info import TensorInfo, shape_text

if TYPE_CHECKING:
    import torch

#: Share of the entries that a localised region has.
REGION = 0.01
# A direction with a smaller share of the largest singular value is rounding.
_NULL = 1e-6


@dataclass
class ChangeAgreement:
    """Two changes, over some tensors.

    Attributes:
        product, squares: their scalar product, and each one's with itself.
        alike, both: entries that both change in one direction, and that both change.
    """

    product: float = 0.0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    alike: int = 0
    both: int = 0

    @property
    def cosine(self) -> float | None:
        """Of the angle between them; None when one does not change anything here."""
        size = (self.squares[0] * self.squares[1]) ** 0.5
        return max(-1.0, min(1.0, self.product / size)) if size > 0 else None

    @property
    def signs(self) -> float | None:
        """Of the entries that both change, the share that both change in one direction."""
        return self.alike / self.both if self.both else None

    def add(self, other: ChangeAgreement) -> None:
        """Takes in further tensors."""
        self.product += other.product
        self.squares = [mine + theirs for mine, theirs in zip(self.squares, other.squares, strict=True)]
        self.alike += other.alike
        self.both += other.both


@dataclass(frozen=True)
class Similarity:
    """What a comparison found.

    Attributes:
        whole: over all tensors of either.
        layers: by layer, or part outside the layers.
        region: Jaccard index of the 1% largest changes of each, over the whole model.
        subspaces: (of left factors, of right factors): mean squared cosine of the principal angles between the
            directions of two low-rank changes, the mean over the matrices; None where no matrix has both in low rank.
        matrices: how many matrices that is of.
    """

    whole: ChangeAgreement
    layers: Mapping[str, ChangeAgreement]
    region: float | None
    subspaces: tuple[float, float] | None
    matrices: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "cosine": self.whole.cosine,
            "sign_agreement": self.whole.signs,
            "region_overlap": self.region,
            "subspace_overlap": list(self.subspaces) if self.subspaces else None,
            "low_rank_matrices": self.matrices,
            "layers": {
                name: {"cosine": each.cosine, "sign_agreement": each.signs} for name, each in self.layers.items()
            },
        }


def compare(one: Change, other: Change) -> Similarity:
    """Compares two changes, a block of rows at a time. A tensor that only one of them changes is zero in the other.

    Raises:
        InputError: a tensor has another shape in the other.
    """
    pair = (one, other)
    shapes = {name: one.shape(name) for name in one.names()}
    for name in other.names():
        if shapes.setdefault(name, other.shape(name)) != other.shape(name):
            raise InputError(
                f"got shape {shape_text(other.shape(name))}, expected {shape_text(shapes[name])} as in {one.name}",
                where=f"{other.name}:{name}",
                fix="Compare skills of one base",
            )
    groups = layer_of(shapes)
    held = [set(changes.names()) for changes in pair]
    # As many entries of either, so that a part of the model that one leaves alone does not shrink its region.
    count = keep_count(REGION, sum(TensorInfo(shape, "F32").numel for shape in shapes.values()))
    thresholds = [_threshold(changes, count) for changes in pair]
    layers: dict[str, ChangeAgreement] = {}
    common = either = 0
    with progress.bar("comparing", len(shapes), "tensors") as bar:
        for name in shapes:
            found = ChangeAgreement()
            for start, stop in block_rows(*(one if name in held[0] else other).matrix(name)):
                rows = [c.rows(name, start, stop) if name in h else None for c, h in zip(pair, held, strict=True)]
                _observe(found, rows)
                regions = [_region(each, threshold) for each, threshold in zip(rows, thresholds, strict=True)]
                sizes = [int(region.sum()) if region is not None else 0 for region in regions]
                first, second = regions
                shared = int((first & second).sum()) if first is not None and second is not None else 0
                common, either = common + shared, either + sum(sizes) - shared
            layers.setdefault(groups[name], ChangeAgreement()).add(found)
            bar.advance()
    whole = ChangeAgreement()
    for each in layers.values():
        whole.add(each)
    shared_names = [name for name in shapes if name in held[0] and name in held[1]]
    overlaps = [overlap for name in shared_names if (overlap := _subspaces(one, other, name)) is not None]
    mean = (
        (sum(left for left, _ in overlaps) / len(overlaps), sum(right for _, right in overlaps) / len(overlaps))
        if overlaps
        else None
    )
    return Similarity(whole, layers, common / either if either else None, mean, len(overlaps))


def _observe(found: ChangeAgreement, rows: list[torch.Tensor | None]) -> None:
    for i, each in enumerate(rows):
        if each is not None:
            flat = each.double().reshape(-1)
            found.squares[i] += float(flat @ flat)
    first, second = rows
    if first is None or second is None:
        return
    found.product += float(first.double().reshape(-1) @ second.double().reshape(-1))
    signs = first.sign() * second.sign()
    found.alike += int((signs > 0).sum())
    found.both += int((signs != 0).sum())


def _region(rows: torch.Tensor | None, threshold: float) -> torch.Tensor | None:
    if rows is None:
        return None
    sizes = rows.abs()
    # Where fewer entries change than the region has, the threshold is zero.
    return (sizes >= threshold) & (sizes > 0)


def _threshold(changes: Change, count: int) -> float:
    """The smallest of the `count` largest magnitudes of a change."""
    names = changes.names()
    selection = MagnitudeSelection(min(count, sum(changes.numel(name) for name in names)))
    for number in range(selection.passes):
        for name in names:
            counts = selection.begin(number)
            for start, stop in block_rows(*changes.matrix(name)):
                selection.observe(number, changes.rows(name, start, stop), counts)
            selection.fold(counts)
        selection.finish(number)
    return selection.threshold


def _subspaces(one: Change, other: Change, name: str) -> tuple[float, float] | None:
    """Overlaps of the left and right directions of a matrix that both hold in low rank."""
    bases = [_directions(changes, name) for changes in (one, other)]
    if bases[0] is None or bases[1] is None:
        return None
    (left, right), (other_left, other_right) = bases[0], bases[1]
    fewer = min(left.shape[1], other_left.shape[1])
    if not fewer:
        return None
    return (
        float((left.mT @ other_left).square().sum()) / fewer,
        float((right.mT @ other_right).square().sum()) / fewer,
    )


def _directions(changes: Change, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Orthonormal bases, `(rows, k)` and `(columns, k)` float64, of what a stored product of factors moves."""
    import torch

    product = changes.factors(name)
    if product is None:
        return None
    left, upper = torch.linalg.qr(product.left.double())
    right, lower = torch.linalg.qr(product.right.double().mT)
    inner, values, outer = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    kept = values > _NULL * float(values.max()) if len(values) else values > 0
    return left @ inner[:, kept], right @ outer.mT[:, kept]
