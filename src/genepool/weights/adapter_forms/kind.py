"""KIND: a weight as shared directions of its SVD (learngenes), and directions of each task behind a gate (tailors)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

_PARTS = ("U", "S", "V")


class KindOptions(FormOptions):
    """Options of KIND."""

    tailor: int = Field(default=8, ge=1, le=4096, description="Directions that each task has of its own.")


class KindForm(LinearForm):
    """W_t = U diag(S) V + U_t diag(S_t) V_t: the gate lets the tailor of task t through, and no other.

    It begins as the SVD of the base's weight: all directions but the last are shared, and every tailor begins as the
    last `tailor` of them, so that each task begins as the base. Without a task, the mean of the tailors acts.
    """

    name = "kind"
    source = "Xie et al., KIND (arXiv:2408.07337), derived from the text; the start from a trained base is ours"
    when = "Several tasks trained at once, where what they share should be taken out and reused for others."
    traps = (
        "The paper trains from scratch; here the factors begin as the base's. Every shared direction is trained, so "
        "the form is larger than the base."
    )
    by_task = True
    Options = KindOptions
    options: KindOptions
    boost = 1.0

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        most, tailor = min(site.inputs, site.outputs), self.options.tailor
        if tailor >= most:
            raise InputError(
                f"has {most} directions, so a tailor of {tailor} would leave none to share",
                where=f"{sites.where}:{site.module}",
                fix=f"Set `tailor` below {most}: --set form.tailor=N",
            )
        found = _shapes(site, most - tailor, "")
        for task in range(len(self.tasks)):
            found |= _shapes(site, tailor, f"{task}.")
        return found

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        left, values, right = torch.linalg.svd(beginning.read(site)[0], full_matrices=False)
        cut = len(values) - self.options.tailor
        found = {"U": left[:, :cut].contiguous(), "S": values[:cut].clone(), "V": right[:cut].contiguous()}
        for task in range(len(self.tasks)):
            found[f"{task}.U"] = left[:, cut:].clone()
            found[f"{task}.S"] = values[cut:].clone()
            found[f"{task}.V"] = right[cut:].clone()
        return found

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        # The base's weight takes no part, and its bias does.
        bias = plain(x.new_zeros(1, site.inputs))[0] if site.bias else 0.0
        y = _through(x, parts, "") + bias
        chosen = range(len(self.tasks)) if task < 0 else [task]
        for one in chosen:
            y = y + _through(x, parts, f"{one}.") / len(chosen)
        return y

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        chosen = range(len(self.tasks)) if task < 0 else [task]
        total = _joined(parts, "")
        for one in chosen:
            total = total + _joined(parts, f"{one}.") / len(chosen)
        return total - weight, None


def _shapes(site: LinearSite, rank: int, before: str) -> Shapes:
    return {f"{before}U": (site.outputs, rank), f"{before}S": (rank,), f"{before}V": (rank, site.inputs)}


def _through(x: torch.Tensor, parts: Parts, before: str) -> torch.Tensor:
    u, s, v = (parts[f"{before}{part}"] for part in _PARTS)
    return ((x @ v.T) * s) @ u.T


def _joined(parts: Parts, before: str) -> torch.Tensor:
    u, s, v = (parts[f"{before}{part}"] for part in _PARTS)
    return (u * s) @ v
