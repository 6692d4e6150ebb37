"""CRaSh: tune the outer layers while most of the middle is not there, then plug them into the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.adapter_forms.relaxed_recursive import in_place
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class CrashOptions(FormOptions):
    """Options of CRaSh."""

    outer: int = Field(default=1, ge=1, le=1000, description="Layers at each end that are trained.")
    kept: int = Field(default=2, ge=1, le=1000, description="Layers of the middle that stand for all of it.")


class Crash(LinearForm):
    """Middle layers are clustered by the CKA of neighbours; the centre of each cluster is kept and repeated.

    While it trains, every middle layer computes with the weights of its cluster's centre (the emulator), and the outer
    layers' weights are trained. The result is those weights in the whole model: a change of the outer layers alone.
    """

    name = "crash"
    source = "Zhang et al., CRaSh (arXiv:2310.15477)"
    when = "Whoever tunes must not see the whole model: the middle is replaced by a few of its layers."
    traps = (
        "Only outer layers are trained. The validation loss during the training is the emulator's; before and after "
        "are the whole model's. The layers are repeated here, as in the paper, so training is no faster."
    )
    Options = CrashOptions
    options: CrashOptions
    boost = 1.0

    def chosen(self, sites: ModelSites) -> tuple[LinearSite, ...]:
        stack, depth = self._stack(sites)
        outer = self.options.outer
        return tuple(site for site in sites.linear if site.stack == stack and not outer <= site.layer < depth - outer)

    def _stack(self, sites: ModelSites) -> tuple[str, int]:
        """The one list of layers, and how many it has."""
        if len(sites.depth) > 1:
            raise InputError("has several lists of layers", where=sites.where, fix="Use another form")
        stack, depth = next(iter(sites.depth.items()))
        most = depth - 2 * self.options.outer - 1
        if most < self.options.kept:
            raise InputError(
                f"has {depth} layers: with {self.options.outer} at each end, {self.options.kept} cannot stand for the "
                "middle",
                where=sites.where,
                fix=f"Set fewer: --set form.kept={most}" if most > 0 else "Use another form, or a deeper model",
            )
        return stack, depth

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        return {"weight": (site.outputs, site.inputs)}

    def shapes(self, sites: ModelSites) -> Shapes:
        return {**super().shapes(sites), "centres": (self._stack(sites)[1],)}

    def frozen(self, name: str) -> bool:
        return name == "centres"

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        stack, depth = self._stack(beginning.sites)
        states = beginning.layers([f"{stack}.{layer}" if stack else str(layer) for layer in range(depth)])
        middle = range(self.options.outer, depth - self.options.outer)
        centres = list(range(depth))
        for cluster in clusters([states[layer] for layer in middle], self.options.kept):
            centre = middle[cluster[len(cluster) // 2]]
            for place in cluster:
                centres[middle[place]] = centre
        return {**super().begin(beginning), "centres": torch.tensor(centres, dtype=torch.float32)}

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        return {"weight": beginning.read(site)[0].clone()}

    def attach(self, attached: Attached) -> None:
        super().attach(attached)
        if not attached.trained:
            return
        stack, depth = self._stack(attached.sites)
        names = [f"{stack}.{layer}" if stack else str(layer) for layer in range(depth)]
        plain = [attached.module(name).forward for name in names]
        for layer, centre in enumerate(attached.tensors["centres"].long().tolist()):
            if layer != centre:

                def repeated(
                    own: Callable[..., Any], *arguments: Any, to: Callable[..., Any] = plain[centre], **named: Any
                ) -> Any:
                    return (to if attached.trained else own)(*arguments, **named)

                attached.replace(names[layer], repeated)

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        return in_place(plain, x, parts["weight"], site)

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parts["weight"] - weight, None


def cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """Linear CKA of two layers' states of the same examples, (examples, width) each: 1 where they are alike."""
    first, second = (state.double() - state.double().mean(0) for state in (one, other))
    cross = float((first.T @ second).square().sum())
    own = float((first.T @ first).norm() * (second.T @ second).norm())
    return cross / own if own > 0 else 1.0


def clusters(states: list[torch.Tensor], count: int) -> list[list[int]]:
    """Runs of neighbouring layers: the two neighbours of the largest mean CKA are joined until so many runs are left.

    Args:
        states: of each layer, (examples, width).
        count: how many runs.
    """
    found = [[place] for place in range(len(states))]
    alike = {(i, j): cka(states[i], states[j]) for i in range(len(states)) for j in range(i + 1, len(states))}
    while len(found) > count:

        def near(at: int) -> float:
            pairs = [alike[i, j] for i in found[at] for j in found[at + 1]]
            return sum(pairs) / len(pairs)

        # Of equally near neighbours the first are joined.
        best = max(range(len(found) - 1), key=lambda at: (near(at), -at))
        found[best : best + 2] = [found[best] + found[best + 1]]
    return found
