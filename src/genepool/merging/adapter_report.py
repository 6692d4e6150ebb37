"""What an adapter that stands for a merge holds and loses, tensor by tensor: for programs, the model card and the user.

Filled in by `as_lora`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genepool import progress
from genepool.merging import card
from genepool.merging.plan import Plan
from genepool.weights.peft.writer import HeldTensor


@dataclass(frozen=True)
class AdapterReport:
    """How well an adapter stands for a merge.

    Attributes:
        rank: the largest rank of a tensor in it.
        tensors: every tensor that the merge changes.
        nbytes: size of its weights.
        tokens_left_out: tokens that the merge has and the base lacks; the adapter has no rows for them.
    """

    rank: int
    tensors: tuple[HeldTensor, ...]
    nbytes: int
    tokens_left_out: int = 0

    @property
    def change(self) -> float:
        """Squared Frobenius norm of merged minus base."""
        return sum(tensor.change for tensor in self.tensors)

    @property
    def relative_error(self) -> float:
        """`||change - adapter||_F / ||change||_F` over all tensors, those that are left out included."""
        return math.sqrt(sum(tensor.lost for tensor in self.tensors) / self.change)

    @property
    def left_out(self) -> tuple[HeldTensor, ...]:
        """Tensors whose change the adapter does not hold."""
        return tuple(tensor for tensor in self.tensors if tensor.form.kind == "none")

    @property
    def left_out_share(self) -> float:
        """Their part of the squared norm of the change."""
        return sum(tensor.change for tensor in self.left_out) / self.change

    def to_dict(self) -> dict[str, Any]:
        """The object `adapter` of `genepool.json`."""
        return {**self.summary(), "tensors": [tensor.to_dict(self.change) for tensor in self.tensors]}

    def summary(self) -> dict[str, Any]:
        """The same without the list of tensors."""
        return {
            "rank": self.rank,
            "relative_error": self.relative_error,
            "kept": 1 - self.relative_error**2,
            "left_out": [tensor.name for tensor in self.left_out],
            "left_out_share": self.left_out_share,
            "tokens_left_out": self.tokens_left_out,
        }


def report_files(plan: Plan, report: AdapterReport) -> dict[str, str]:
    """Recipe, record and card of an adapter, name -> text."""
    lines = [
        f"A PEFT LoRA adapter of rank {report.rank} on the base. It holds {_percent(1 - report.relative_error**2)} of "
        "the squared norm of what the merge changes "
        f"(relative Frobenius error {report.relative_error:.3g}); `genepool.json` says it tensor by tensor."
    ]
    if report.tokens_left_out:
        lines += ["", f"It has no rows for {report.tokens_left_out} tokens that the base lacks."]
    if report.left_out:
        lines += ["", f"Left at the base, {_percent(report.left_out_share)} of the change:", ""]
        lines += [f"- `{held.name}`: {held.form.reason}" for held in report.left_out]
    return card.extra_files(plan, sections={"Adapter": "\n".join(lines)}, adapter=report.to_dict())


def remark(report: AdapterReport, asked: int) -> None:
    """Says on stderr what the user may not expect: a smaller rank than `asked`, tensors that are left out."""
    if report.rank < asked:
        progress.message(f"note: rank {report.rank} instead of {asked}: no matrix has more directions to hold.")
    if report.tokens_left_out:
        progress.message(f"note: {report.tokens_left_out} tokens that the base lacks are left out.")
    if left := report.left_out:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        progress.message(
            f"note: {left[0].name}{more} stay as in the base ({left[0].form.reason}): "
            f"{_percent(report.left_out_share)} of the change."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
