"""What several skills change of one linear layer, as factors side by side: `y += ((x A^T) * w) B`.

Each skill is `A_i` (rank_i, inputs) and `B_i` (rank_i, outputs) with the adapter's scale inside `B_i`. Ranks may
differ, and a skill may leave the layer alone. Three ways give the same sum. `gathered` takes each line's own factors
out once for a batch, `side_by_side` multiplies by all factors and weighs the columns, and `sliced` goes through the
lines skill by skill. `cheapest` chooses. Used by `mixtures`; everything can be differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

#: The ways of one skill a line.
Way = Literal["gathered", "side_by_side", "sliced"]

# What a processor takes, measured on one core: a call of a kernel, a line of a batched product, a byte that is read
# from memory, and a multiplication with its addition. Only their ratios matter.
_CALL, _LINE, _BYTE, _PRODUCT = 5e-6, 3e-7, 1e-10, 6e-11


class Own(NamedTuple):
    """The factors of the lines of a batch, one skill a line.

    Attributes:
        down: (lines, inputs, rank), a view of what lies rank by rank.
        up: (lines, rank, outputs).
        shift: what is added to the bias, (lines, 1, outputs); None where no skill has one.
    """

    down: torch.Tensor
    up: torch.Tensor
    shift: torch.Tensor | None


class LayerFactors:
    """The factors of one linear layer for k skills.

    Args:
        pairs: of every skill, (rank, inputs) and (rank, outputs); None for one that leaves the matrix alone.
        shifts: of every skill, what it adds to the bias, (outputs,); None for one that leaves it alone.
        inputs, outputs: of the layer.
        like: a tensor of the type and on the device that the layer computes in.

    Attributes:
        inputs, outputs: of the layer.
        ranks: of every skill, 0 where it leaves the matrix alone.
        down: (K, inputs), where K is the sum of the ranks.
        up: (K, outputs).
        owners: the skill that each of the K rows belongs to, (K,).
        shifts: (skills + 1, outputs), the last row zeros; None where no skill changes the bias.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
        shifts: Sequence[torch.Tensor | None],
        *,
        inputs: int,
        outputs: int,
        like: torch.Tensor,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.ranks = tuple(0 if pair is None else len(pair[0]) for pair in pairs)
        known = [pair for pair in pairs if pair is not None]
        # The last row belongs to no skill: lines of the base, and of a smaller rank than the largest, point at it.
        self._down = torch.cat([*(down.to(like) for down, _ in known), like.new_zeros(1, inputs)])
        self._up = torch.cat([*(up.to(like) for _, up in known), like.new_zeros(1, outputs)])
        self.down, self.up = self._down[:-1], self._up[:-1]
        ranks = torch.tensor(self.ranks, device=like.device)
        self.owners = torch.repeat_interleave(torch.arange(len(pairs), device=like.device), ranks)
        self._starts = [0, *torch.tensor(self.ranks).cumsum(0).tolist()]
        self._places = self._row_numbers().to(like.device)
        self.shifts: torch.Tensor | None = None
        if any(shift is not None for shift in shifts):
            rows = [like.new_zeros(outputs) if shift is None else shift.to(like) for shift in shifts]
            self.shifts = torch.stack([*rows, like.new_zeros(outputs)])

    @property
    def skills(self) -> int:
        """How many there are."""
        return len(self.ranks)

    @property
    def largest(self) -> int:
        """The largest rank."""
        return max(self.ranks, default=0)

    def pair(self, skill: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A skill's own factors, (rank, inputs) and (rank, outputs); None where it leaves the matrix alone."""
        if not self.ranks[skill]:
            return None
        rows = slice(self._starts[skill], self._starts[skill + 1])
        return self._down[rows], self._up[rows]

    def own(self, skills: torch.Tensor) -> Own:
        """The factors of lines that each have one skill: what `gathered` needs, once for a batch.

        Args:
            skills: a skill's number for each line, -1 for the base alone, (lines,).
        """
        if (rows := self._run(skills)) is not None:
            # They lie as they are wanted: taking them out would cost as much as what is computed with them.
            down = self._down[rows].view(len(skills), self.largest, self.inputs)
            up = self._up[rows].view(len(skills), self.largest, self.outputs)
        else:
            places = self._places[skills]
            flat = places.flatten()
            down = self._down.index_select(0, flat).view(*places.shape, self.inputs)
            up = self._up.index_select(0, flat).view(*places.shape, self.outputs)
        return Own(down.transpose(1, 2), up, None if self.shifts is None else self.shifts[skills].unsqueeze(1))

    def gathered(self, output: torch.Tensor, x: torch.Tensor, own: Own) -> torch.Tensor:
        """What the layer gives with each line's own skill.

        Args:
            output: of the layer, (lines, tokens, outputs); it may be written into where no gradient is asked for.
            x: its input, (lines, tokens, inputs).
            own: of `own`.
        """
        output = _plus(output, own.shift)
        if not own.up.shape[1]:
            return output
        inner = torch.bmm(x, own.down)
        return torch.baddbmm(output, inner, own.up) if torch.is_grad_enabled() else output.baddbmm_(inner, own.up)

    def columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights of skills as weights of the K columns of `x A^T`.

        Args:
            weights: (..., skills).

        Returns:
            (..., K), in the factors' type.
        """
        return weights.to(self._down.dtype).index_select(-1, self.owners)

    def side_by_side(
        self, output: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """What the layer gives with a mixture of all skills.

        Args:
            output, x: as for `gathered`.
            weights: (lines, 1 or tokens, skills).
            columns: the same as weights of the columns, see `columns`.
        """
        if self.shifts is not None:
            output = _plus(output, weights.to(output.dtype) @ self.shifts[:-1])
        if not len(self.owners):
            return output
        inner = torch.nn.functional.linear(x, self.down) * columns
        flat, rows = output.reshape(-1, self.outputs), inner.reshape(-1, inner.shape[-1])
        return torch.addmm(flat, rows, self.up).view_as(output)

    def sliced(
        self, output: torch.Tensor, x: torch.Tensor, spans: Sequence[tuple[int, torch.Tensor | slice]]
    ) -> torch.Tensor:
        """What the layer gives where many lines share a skill.

        Args:
            output, x: as for `gathered`.
            spans: a skill, and its lines: a slice where they stand together, else their numbers.
        """
        output = output.clone() if torch.is_grad_enabled() else output
        for skill, lines in spans:
            part = output[lines]
            if self.shifts is not None:
                part += self.shifts[skill]
            if (pair := self.pair(skill)) is not None:
                inner = torch.nn.functional.linear(x[lines].reshape(-1, self.inputs), pair[0])
                part.view(-1, self.outputs).addmm_(inner, pair[1])
            if not isinstance(lines, slice):
                # What numbers pick out is a copy.
                output[lines] = part
        return output

    def cheapest(self, lines: int, tokens: int, distinct: int, *, together: bool) -> Way:
        """The cheapest way of a batch in which every line has one skill.

        Args:
            lines, tokens: of the batch.
            distinct: how many skills they have.
            together: the lines of each skill stand together.
        """
        width = self.inputs + self.outputs
        products = lines * tokens * width * _PRODUCT
        # Each line reads factors of its own; a token then finds them in the cache.
        gathered = 2 * _CALL + lines * (2 * _LINE + self.largest * width * 4 * _BYTE) + products * self.largest
        # Lines that do not stand together are copied out and back.
        moved = 0 if together else 2 * _CALL + lines * tokens * width * 8 * _BYTE / max(1, distinct)
        sliced = distinct * (3 * _CALL + moved) + products * self.largest
        every = 4 * _CALL + products * len(self.owners)
        costs: dict[Way, float] = {"gathered": gathered, "side_by_side": every, "sliced": sliced}
        return min(costs, key=lambda way: costs[way])

    def _run(self, skills: torch.Tensor) -> slice | None:
        """The rows of lines whose skills follow each other, all of the largest rank; None for any others."""
        numbers = skills.tolist()
        if not numbers:
            return None
        first, last = numbers[0], numbers[-1]
        if first < 0 or numbers != list(range(first, last + 1)):
            return None
        if not self.largest or any(rank != self.largest for rank in self.ranks[first : last + 1]):
            return None
        return slice(self._starts[first], self._starts[last + 1])

    def _row_numbers(self) -> torch.Tensor:
        """Which rows each skill has, (skills + 1, largest rank); the row of zeros fills up."""
        nothing = self._starts[-1]
        found = torch.full((self.skills + 1, self.largest), nothing, dtype=torch.long)
        for skill, rank in enumerate(self.ranks):
            found[skill, :rank] = torch.arange(self._starts[skill], self._starts[skill] + rank)
        return found


def _plus(output: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
    if added is None:
        return output
    return output + added if torch.is_grad_enabled() else output.add_(added)
