"""Singular directions, the stronger in more bits than the weaker: SkillPack of GraftLLM (Du et al., arXiv:2505.18502).

Each direction's vectors carry the root of its singular value on either side. The directions are cut into bands, from
the strongest on, and every band has a width of its own: 16 bits (bfloat16), 8, 4 or 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.bits import WIDTHS, packed_width
from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry
from genepool.weights.encodings.groups import GROUP, dequantise, quantise

if TYPE_CHECKING:
    import torch

_MOST_BANDS = 16


class Singular(Encoding):
    """Singular vectors in bands of falling precision.

    Band after band, left vectors before right ones: `codes` and `scales` of those in 8 bits and less, `vectors` of
    those in 16, each as one run of entries.
    """

    kind = "singular"
    form = "packed"
    by_rows = False

    def encode(
        self,
        change: torch.Tensor,
        *,
        bands: Sequence[tuple[int, int]] = ((4, 8), (12, 4)),
        group: int = GROUP,
        **_: Any,
    ) -> EncodedChange:
        """As `Encoding.encode`; `bands` are (how many directions, bits) from the strongest on."""
        import torch

        from genepool.kernels.spectral import low_rank

        rank = sum(count for count, _ in bands)
        factors, _exact = low_rank(change, rank, torch.Generator().manual_seed(0))
        root = factors.values.sqrt()
        return self.of_vectors((factors.left * root).mT, root[:, None] * factors.right, bands, group)

    def of_vectors(
        self, left: torch.Tensor, right: torch.Tensor, bands: Sequence[tuple[int, int]], group: int = GROUP
    ) -> EncodedChange:
        """Stores vectors, `(rank, rows)` and `(rank, columns)` float32, from the strongest on.

        Vectors beyond the bands are left out.
        """
        import torch

        runs: dict[str, list[torch.Tensor]] = {"codes": [], "scales": [], "vectors": []}
        used: list[list[int]] = []
        first = 0
        for count, bits in bands:
            run = slice(first, min(first + count, len(left)))
            first = run.stop
            if run.start >= run.stop:
                break
            used.append([run.stop - run.start, bits])
            for vectors in (left[run], right[run]):
                if bits == 16:
                    runs["vectors"].append(vectors.to(torch.bfloat16).flatten())
                else:
                    codes, scales = quantise(vectors, bits, group)
                    runs["codes"].append(codes.flatten())
                    runs["scales"].append(scales.flatten())
        parts = {part: torch.cat(found) for part, found in runs.items() if found}
        return EncodedChange(parts, {"bands": used, "group": group})

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        left = entry.kept("left", lambda: self._vectors(entry, 0))
        right = entry.kept("right", lambda: self._vectors(entry, 1))
        product: torch.Tensor = left[:, start:stop].mT @ right
        return product

    def _vectors(self, entry: Entry, side: int) -> torch.Tensor:
        """All vectors of the left (0) or right (1) side, `(rank, length)` float32."""
        import torch

        length, group = entry.matrix[side], entry.settings["group"]
        found = [torch.zeros(0, length)]
        at = dict.fromkeys(("codes", "scales", "vectors"), 0)
        for count, bits in entry.settings["bands"]:
            taken = {}
            for part, widths in _lengths(entry.matrix, count, bits, group).items():
                before = at[part] + (widths[0] if side else 0)
                taken[part] = entry.parts[part].entries(before, before + widths[side]).reshape(count, -1)
                at[part] += sum(widths)
            if bits == 16:
                found.append(taken["vectors"].float())
            else:
                found.append(dequantise(taken["codes"], taken["scales"], length, bits, group))
        return torch.cat(found)

    def check_parts(self, entry: Entry) -> None:
        group, bands = entry.whole_number("group", 1, 1 << 30), entry.settings.get("bands")
        if not isinstance(bands, list) or len(bands) > _MOST_BANDS or not all(_is_band(band) for band in bands):
            raise entry.broken("its bands are not pairs of a count and a width")
        lengths: dict[str, int] = {}
        for count, bits in bands:
            for part, widths in _lengths(entry.matrix, count, bits, group).items():
                lengths[part] = lengths.get(part, 0) + sum(widths)
        for part, length in lengths.items():
            entry.expect(part, (length,), "U8" if part == "codes" else "BF16")


def _lengths(shape: tuple[int, int], count: int, bits: int, group: int) -> dict[str, tuple[int, int]]:
    """Entries of each part that the left and the right vectors of one band take."""
    if bits == 16:
        return {"vectors": (count * shape[0], count * shape[1])}
    codes = count * packed_width(shape[0], bits), count * packed_width(shape[1], bits)
    return {"codes": codes, "scales": (count * -(-shape[0] // group), count * -(-shape[1] // group))}


def _is_band(band: Any) -> bool:
    whole = isinstance(band, list) and len(band) == 2 and all(type(n) is int for n in band)
    return whole and band[0] >= 1 and band[1] in (*WIDTHS, 16)
