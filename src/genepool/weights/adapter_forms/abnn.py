"""ABNN: norms whose gain is drawn, trained a few times over, and averaged: a classifier that says how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.sites import ModelSites, NormSite

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class AbnnOptions(FormOptions):
    """Options of ABNN."""

    members: int = Field(default=3, ge=1, le=100, description="How many sets of gains are trained.")
    draws: int = Field(default=4, ge=1, le=1000, description="Draws of each member that are averaged when it is asked.")
    deviation: float = Field(default=0.1, ge=0, le=10, description="Standard deviation of eps.")


class Abnn(NetworkForm):
    """norm(h) = gamma (1 + eps) h + beta, eps from N(0, deviation^2) for each feature; gamma and beta are trained.

    A step draws one member and one eps. When it is asked, the probabilities of all members and of fixed draws of each
    are averaged: the log of the mean probability stands in place of the logits.
    """

    name = "abnn"
    source = "Franchi et al., Make Me a BNN (CVPR 2024, arXiv:2312.15297), from memory; options are ours"
    when = "A trained classifier that should tell what it does not know."
    why_not = "its answer is a mean over draws, which no single set of weights gives"
    traps = "It asks the network members x draws times. The paper perturbs the loss of each member too; this does not."
    reads = "classes"
    boost = 10.0
    Options = AbnnOptions
    options: AbnnOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        if not sites.norms:
            raise InputError("has no norms", where=sites.where, fix="Use another form")
        found: Shapes = {}
        for norm in sites.norms:
            for member in range(self.options.members):
                found[f"{norm.module}.{member}.gain"] = (norm.features,)
                if norm.bias:
                    found[f"{norm.module}.{member}.shift"] = (norm.features,)
        return found

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        # Both are relative to the norm's own: gamma' = gamma gain, beta' = beta + shift.
        return {
            name: torch.ones(shape) if name.endswith(".gain") else torch.zeros(shape)
            for name, shape in self.shapes(beginning.sites).items()
        }

    def attach(self, attached: Attached) -> None:
        drawn = _Drawn(self, attached)
        for norm in attached.sites.norms:
            attached.replace(norm.module, drawn.norm(norm))
        attached.replace("", drawn.network)


class _Drawn:
    """Which member and which draw acts now."""

    def __init__(self, form: Abnn, attached: Attached) -> None:
        self._form, self._attached = form, attached
        self._member, self._draw = 0, 0

    def norm(self, norm: NormSite) -> Any:
        module: Any = self._attached.module(norm.module)

        def computed(plain: Any, h: torch.Tensor) -> torch.Tensor:
            tensors = self._attached.tensors
            gain = tensors[f"{norm.module}.{self._member}.gain"]
            factor = gain * (1 + self._form.options.deviation * self._eps(norm, gain))
            bias = module.bias if norm.bias else 0.0
            y: torch.Tensor = (plain(h) - bias) * factor + bias
            return y + tensors[f"{norm.module}.{self._member}.shift"] if norm.bias else y

        return computed

    def _eps(self, norm: NormSite, like: torch.Tensor) -> torch.Tensor:
        import torch

        if self._draw < 0:
            return torch.randn_like(like)
        name = ("abnn", norm.module, self._member, self._draw)
        return torch.randn(like.shape, generator=torch_generator(self._attached.seed, *name)).to(like)

    def network(self, plain: Any, *arguments: Any, **named: Any) -> Any:
        import torch

        options = self._form.options
        if self._attached.network.training:
            self._member, self._draw = int(torch.randint(options.members, (1,))), -1
            return plain(*arguments, **named)
        found, logs = None, []
        for self._member in range(options.members):
            for self._draw in range(options.draws):
                found = plain(*arguments, **named)
                logs.append(found.logits.float().log_softmax(-1))
        assert found is not None
        found.logits = torch.stack(logs).logsumexp(0).sub(torch.tensor(float(len(logs))).log())
        return found
