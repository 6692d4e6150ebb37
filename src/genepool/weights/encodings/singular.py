"""Singular directions, the stronger in more bits than the weaker: SkillPack of GraftLLM (Du et al., arXiv:2505.18502).

Each direction's vectors carry the root of its singular value on either side. The directions are cut into bands, from
the strongest on, and every band has a width of its own: 16 bits (bfloat16), 8, 4 or 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.weights.encodings.bits import WIDTHS, packed_width
from genepool.weights.encodings.encoding import Encoded, Encoding, Entry
from genepool.weights.encodings.groups import GROUP, dequantise, quantise

if TYPE_CHECKING:
    import torch

_MOST_BANDS = 16


class Singular(Encoding):
    """For every band `i`: `left.i` and `right.i`, vectors as rows, and from 8 bits down `left_scales.i` and so on."""

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
    ) -> Encoded:
        """As `Encoding.encode`; `bands` are (how many directions, bits) from the strongest on."""
        import torch

        from genepool.spectral import low_rank

        rank = sum(count for count, _ in bands)
        factors, _exact = low_rank(change, rank, torch.Generator().manual_seed(0))
        root = factors.values.sqrt()
        return self.of_vectors((factors.left * root).mT, root[:, None] * factors.right, bands, group)

    def of_vectors(
        self, left: torch.Tensor, right: torch.Tensor, bands: Sequence[tuple[int, int]], group: int = GROUP
    ) -> Encoded:
        """Stores vectors, `(rank, rows)` and `(rank, columns)` float32 from the strongest on; those beyond the bands
        are left out."""
        import torch

        parts: dict[str, torch.Tensor] = {}
        used: list[list[int]] = []
        first = 0
        for count, bits in bands:
            run = slice(first, min(first + count, len(left)))
            first = run.stop
            if run.start >= run.stop:
                break
            number = len(used)
            used.append([run.stop - run.start, bits])
            for side, vectors in (("left", left[run]), ("right", right[run])):
                if bits == 16:
                    parts[f"{side}.{number}"] = vectors.to(torch.bfloat16).contiguous()
                else:
                    parts[f"{side}.{number}"], parts[f"{side}_scales.{number}"] = quantise(vectors, bits, group)
        return Encoded(parts, {"bands": used, "group": group})

    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        left = entry.kept("left", lambda: self._vectors(entry, "left"))
        right = entry.kept("right", lambda: self._vectors(entry, "right"))
        product: torch.Tensor = left[:, start:stop].mT @ right
        return product

    def _vectors(self, entry: Entry, side: str) -> torch.Tensor:
        import torch

        length = entry.matrix[0 if side == "left" else 1]
        found = [torch.zeros(0, length)]
        for number, (_, bits) in enumerate(entry.settings["bands"]):
            codes = entry.whole(f"{side}.{number}")
            if bits == 16:
                found.append(codes.float())
            else:
                scales = entry.whole(f"{side}_scales.{number}")
                found.append(dequantise(codes, scales, length, bits, entry.settings["group"]))
        return torch.cat(found)

    def check_parts(self, entry: Entry) -> None:
        rows, columns = entry.matrix
        group, bands = entry.whole_number("group", 1, 1 << 30), entry.settings.get("bands")
        if not isinstance(bands, list) or len(bands) > _MOST_BANDS or not all(_is_band(band) for band in bands):
            raise entry.broken("its bands are not pairs of a count and a width")
        for number, (count, bits) in enumerate(bands):
            for side, length in (("left", rows), ("right", columns)):
                if bits == 16:
                    entry.expect(f"{side}.{number}", (count, length), "BF16")
                else:
                    entry.expect(f"{side}.{number}", (count, packed_width(length, bits)), "U8")
                    entry.expect(f"{side}_scales.{number}", (count, -(-length // group)), "BF16")


def _is_band(band: Any) -> bool:
    whole = isinstance(band, list) and len(band) == 2 and all(type(n) is int for n in band)
    return whole and band[0] >= 1 and band[1] in (*WIDTHS, 16)
