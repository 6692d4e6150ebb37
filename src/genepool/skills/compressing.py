"""Spends a budget of bytes on a skill's tensors where it lowers the error most.

Every tensor can be stored in several ways: left out, as its largest entries, as signs, in 2, 4, 8 or 16 bits an entry,
or as singular directions of which each has a width of its own. For a price of a byte every tensor takes the way of
least error plus price, and the price at which they fill the budget is found by bisection. No other division of the
bytes that are then used has a smaller error.

Errors are squared and, with `energies`, weighted by what flows through each column: the mean square of the activations
that the weights of the column are multiplied by. Then the error is that of the layers' outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError
from genepool.kernels.memory import MemoryGate
from genepool.staging import staged_path
from genepool.threads import core_count, torch_threads
from genepool.weights import Change, WrittenChange, store
from genepool.weights.encodings import Encoding, Entry, encodings
from genepool.weights.encodings.groups import GROUP, dequantise, quantise
from genepool.weights.encodings.singular import Singular
from genepool.weights.skill_file import SAMPLED
from genepool.weights.skill_writer import LEFT_OUT, Choice, check_skill_file

if TYPE_CHECKING:
    import torch

# Directions of a matrix that are looked at: where more are wanted, bits for every entry are the better buy.
MOST_DIRECTIONS = 64
_WIDTHS = (2, 4, 8)
_DENSITIES = (0.003, 0.01, 0.03, 0.1)
# What a tensor takes in the header, beside its name: the entries of its parts and of the table.
_PART_BYTES, _TABLE_BYTES = 84, 100
# What else is in a header beside what the skill's own says: keys, the lineage.
_METADATA_BYTES = 800
_MEMORY = 1 << 29
# Bytes an entry takes while its tensor is looked at: the change, its two models or its magnitudes, weights and factors.
_ENTRY_BYTES = 14
# Entries that are encoded and decoded at a time.
_RUN_ENTRIES = 1 << 22
# A file that fills this share of its budget is full enough.
_FILLED = 0.98
# Columns that hardly anything flows through still count this share of the mean.
_LEAST_ENERGY = 1e-3


@dataclass
class _Ways:
    """How one tensor can be stored, with bytes and squared errors.

    Attributes:
        plain: (bytes, error, choice), whole ways.
        directions: (left, right), `(k, rows)` and `(k, columns)`: singular vectors with the roots of their values.
        bytes_of: bytes of one direction by width.
        gains: `(k, widths)`: by how much one direction lowers the error.
        size: the squared size of the change, which is the error of leaving it out.
        header: bytes that storing it so takes in the file's header.
    """

    size: float
    header: int
    plain: list[tuple[int, float, Choice]] = field(default_factory=list)
    directions: tuple[torch.Tensor, torch.Tensor] | None = None
    bytes_of: tuple[int, ...] = ()
    gains: torch.Tensor | None = None

    def widths(self, price: float) -> torch.Tensor | None:
        """For every direction the index of its width at a price, -1 where it is left out."""
        import torch

        if self.gains is None:
            return None
        worth = self.gains - price * torch.tensor(self.bytes_of, dtype=torch.float64)
        best = worth.max(1)
        return torch.where(best.values > 0, best.indices, -1)

    def best(self, price: float) -> tuple[int, float, Choice | None]:
        """(bytes, error, choice) of least error plus price; no choice stands for the directions."""
        found: tuple[int, float, Choice | None] = (0, self.size, LEFT_OUT)
        for nbytes, error, choice in self.plain:
            if error + price * nbytes < found[1] + price * found[0]:
                found = nbytes, error, choice
        chosen = self.widths(price)
        if chosen is None or self.gains is None:
            return found
        taken = chosen >= 0
        if not bool(taken.any()):
            return found
        of = chosen[taken]
        nbytes = sum(self.bytes_of[int(i)] for i in of) + self.header
        error = max(0.0, self.size - float(self.gains[taken].gather(1, of[:, None]).sum()))
        return (nbytes, error, None) if error + price * nbytes < found[1] + price * found[0] else found


class ByteBudget:
    """Decides how every tensor is stored so that a skill file takes no more than some bytes; a `Choose`.

    Args:
        changes: what will be stored.
        nbytes: the most the file may take.
        energies: tensor -> mean square of what each column is multiplied by, `(columns,)`; all alike when absent.
        threads: how many tensors are looked at at once.

    Attributes:
        error: the expected error, as a share of the change's size, both weighted.

    Raises:
        InputError: the budget is too small for any of it.
    """

    def __init__(
        self,
        changes: Change,
        nbytes: int,
        energies: Mapping[str, torch.Tensor] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.energies = energies or {}
        names = changes.names()
        areas = {name: changes.numel(name) for name in names}
        memory = MemoryGate(max([_MEMORY, *(_ENTRY_BYTES * area for area in areas.values())]))

        def look(name: str) -> _Ways:
            with memory.held(_ENTRY_BYTES * areas[name]):
                found = self._ways(changes, name)
            bar.advance(areas[name])
            return found

        threads = threads or min(8, core_count())
        with (
            progress.bar(f"weighing the tensors of {changes.name}", sum(areas.values()), "entries") as bar,
            torch_threads(1),
            ThreadPoolExecutor(threads) as pool,
        ):
            self._found = dict(zip(names, pool.map(look, names), strict=True))
        said = sum(len(text.encode()) for text in changes.header.metadata("packed", {}).values())
        self._fixed = said + _METADATA_BYTES + SAMPLED * 4 * len(names)
        self.spend(nbytes)

    def spend(self, nbytes: int) -> None:
        """Divides a budget anew.

        Raises:
            InputError: it is too small for any of the skill.
        """
        self._price = self._settle(nbytes - self._fixed)
        best = [ways.best(self._price) for ways in self._found.values()]
        spent = sum(cost for cost, _, _ in best)
        if spent == 0:
            raise InputError(f"the budget is too small, got {nbytes} bytes", where="--size", fix="Give a larger one")
        size = sum(ways.size for ways in self._found.values())
        self.error = (sum(error for _, error, _ in best) / size) ** 0.5 if size > 0 else 0.0

    def __call__(self, name: str, shape: tuple[int, ...], stored: tuple[Encoding, Entry] | None) -> Choice:
        ways = self._found[name]
        choice = ways.best(self._price)[2]
        return self._directions(ways) if choice is None else choice

    def _directions(self, ways: _Ways) -> Choice:
        import torch

        chosen = ways.widths(self._price)
        assert chosen is not None
        assert ways.directions is not None
        bands, order = [], []
        for i in reversed(range(len(_WIDTHS))):
            found = (chosen == i).nonzero().flatten()
            if len(found):
                bands.append((len(found), _WIDTHS[i]))
                order.append(found)
        places = torch.cat(order)
        encoding = encodings()["singular"]
        assert isinstance(encoding, Singular)
        left, right = (vectors[places] for vectors in ways.directions)
        return Choice("singular", {}, encoding.of_vectors(left, right, bands))

    def _settle(self, nbytes: int) -> float:
        """The least price at which everything fits."""

        def cost(price: float) -> int:
            return sum(ways.best(price)[0] for ways in self._found.values())

        if cost(0.0) <= nbytes:
            return 0.0
        low, high = 0.0, 1e-12
        while cost(high) > nbytes and high < 1e30:
            low, high = high, high * 16
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if cost(middle) <= nbytes else (middle, high)
        return high

    def _ways(self, changes: Change, name: str) -> _Ways:
        change = changes.whole(name)
        rows, columns = change.shape
        energy = self.energies.get(name)
        root = None
        if energy is not None and energy.shape == (columns,):
            energy = energy.float().clamp_min(_LEAST_ENERGY * float(energy.mean()))
            root = energy.sqrt()
        size = sum(_square(change[run] if root is None else change[run] * root) for run in _runs(change))
        ways = _Ways(size, len(name) + _PART_BYTES)
        if size == 0:
            return ways
        header = ways.header + len(name) + _TABLE_BYTES

        def offer(kind: str, settings: dict[str, Any], parts: int) -> None:
            encoding, nbytes, error = encodings()[kind], header + parts * ways.header, 0.0
            for run in _runs(change):
                encoded = encoding.join([encoding.encode(change[run], **settings)], columns)
                lost = encoding.restore(encoded, tuple(change[run].shape)).sub_(change[run])
                nbytes += encoded.nbytes
                error += _square(lost if root is None else lost * root)
            ways.plain.append((nbytes, error, Choice(kind, settings)))

        offer("dense", {"dtype": "BF16"}, 0)
        if rows < 2 or columns < 2:
            return ways
        for bits in _WIDTHS:
            offer("groups", {"bits": bits}, 1)
        offer("signs", {}, 1)
        for least in _thresholds(change):
            offer("sparse", {"least": least}, 2)
        ways.header = len(name) + _TABLE_BYTES + 2 * ways.header
        self._look_at_directions(ways, change if root is None else change * root, root)
        return ways

    def _look_at_directions(self, ways: _Ways, weighted: torch.Tensor, root: torch.Tensor | None) -> None:
        import torch

        from genepool.kernels.spectral import low_rank

        rows, columns = weighted.shape
        count = min(MOST_DIRECTIONS, rows, columns)
        factors, _exact = low_rank(weighted, count, torch.Generator().manual_seed(0))
        values = factors.values.sqrt()
        left, right = (factors.left * values).mT.contiguous(), values[:, None] * factors.right
        own = right if root is None else right / root
        exact = factors.values.double().square()
        gains = []
        for bits in _WIDTHS:
            near_left = dequantise(*quantise(left, bits), rows, bits, GROUP).double()
            near_right = dequantise(*quantise(own, bits), columns, bits, GROUP).double()
            if root is not None:
                near_right *= root
            both = (left * near_left).sum(1) * (right * near_right).sum(1)
            size = near_left.square().sum(1) * near_right.square().sum(1)
            # Of |l r^T|^2 - |l r^T - l' r'^T|^2 the first is what leaving it out would cost.
            gains.append(exact - (exact - 2 * both + size))
        ways.gains = torch.stack(gains, 1)
        ways.directions = left, own
        groups = -(-rows // GROUP) + -(-columns // GROUP)
        ways.bytes_of = tuple(-(-rows * bits // 8) + -(-columns * bits // 8) + 2 * groups for bits in _WIDTHS)


def compress(
    changes: Change,
    out: Path,
    nbytes: int,
    arguments: Mapping[str, Any],
    energies: Mapping[str, torch.Tensor] | None = None,
    *,
    overwrite: bool = False,
) -> WrittenChange:
    """Writes a skill file of at most `nbytes` bytes.

    Args:
        changes: what to write.
        out: the file.
        nbytes: the most it may take.
        arguments: what goes into the lineage.
        energies: as for `ByteBudget`.
        overwrite: replace a file that is there.

    Raises:
        InputError: the budget is too small for any of it, or the file cannot be written.
    """
    check_skill_file(out, overwrite=overwrite)
    budget = ByteBudget(changes, nbytes, energies)
    aim, best = nbytes, 0

    def tried(beside: Path) -> WrittenChange:
        return store(changes, beside, budget, "compress", arguments, form_name="packed", overwrite=True)

    with staged_path(out, overwrite=overwrite) as beside:
        # What the header takes is an estimate until it is written, and matters in small files alone.
        for last in (False, False, False, True):
            written = tried(beside)
            fits = written.nbytes <= nbytes
            best = aim if fits and (not best or aim > best) else best
            if last or (fits and written.nbytes >= _FILLED * nbytes):
                break
            aim += nbytes - written.nbytes
            budget.spend(aim)
        if written.nbytes > nbytes:
            budget.spend(best)
            written = tried(beside)
    return replace(written, path=out)


def _runs(matrix: torch.Tensor) -> Iterator[slice]:
    rows, columns = matrix.shape
    step = max(1, _RUN_ENTRIES // max(1, columns))
    return (slice(first, first + step) for first in range(0, rows, step))


def _thresholds(change: torch.Tensor) -> list[float]:
    """The magnitudes from which on each of `_DENSITIES` is kept; without those that are zero."""
    magnitudes = change.abs().flatten().numpy()
    places = [len(magnitudes) - max(1, int(density * len(magnitudes))) for density in _DENSITIES]
    magnitudes.partition(sorted(set(places)))
    return [least for place in places if (least := float(magnitudes[place])) > 0]


def _square(values: torch.Tensor) -> float:
    flat = values.reshape(-1)
    return float(flat @ flat)
