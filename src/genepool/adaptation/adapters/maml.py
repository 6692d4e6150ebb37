"""MAML: several systems teach a net where to begin, and a few steps from there lead to the one at hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from genepool.adaptation.system_nets import MetaLearned, through
from genepool.adaptation.systems_adapter import SystemsAdapter, SystemsOptions


class MamlOptions(SystemsOptions):
    """Options of MAML."""

    steps: int = Field(default=1000, ge=1, le=1_000_000, description="Steps of the training; ours, as for `camel`.")
    rate: float = Field(default=1e-3, gt=0, le=10, description="Learning rate of Adam in the training; the authors.")
    step: float = Field(
        default=0.01, gt=0, le=10, description="How far a step of a system's own goes; the authors, for regression."
    )
    inner: int = Field(default=1, ge=1, le=100, description="Steps of its own in the training; the authors.")
    follow: int = Field(default=10, ge=1, le=10_000, description="Steps of its own on the stream; the authors.")


class Maml(SystemsAdapter):
    """y = F(x) + f(x; th): F is the frozen forecaster, and th follows from a start th0 by a few steps of descent.

    Before the stream th0 is trained so that th0 less a times the gradient of the squared error on some windows of a
    system has a small error on others of it, on the mean over the domains of the source; with second derivatives. On
    the stream th begins at th0 whenever more windows are known whole, and takes `follow` steps on the last ones. Until
    then it is th0. f reads a window less its last value.
    """

    name = "maml"
    source = "Finn, Abbeel and Levine, Model-Agnostic Meta-Learning, arXiv:1703.03400. That F is beside f is ours"
    when = "you want to know what `camel` is worth: it learns of the same systems, and assumes nothing of them"
    Options = MamlOptions

    def _train(self, past: torch.Tensor, left: torch.Tensor, systems: torch.Tensor) -> None:
        assert isinstance(self.options, MamlOptions)
        options = self.options
        self._start = MetaLearned(options.width, options.step, self.seed)
        self._start.train(past, left, systems, options.steps, options.rate, options.inner)
        self._net = self._start.start

    def _follow(self, past: torch.Tensor, left: torch.Tensor) -> None:
        assert isinstance(self.options, MamlOptions)
        self._net = self._start.adapted(past, left, self.options.follow)

    def _added(self, past: torch.Tensor) -> torch.Tensor:
        return through(self._net, past)

    def _learned(self) -> dict[str, torch.Tensor]:
        nets = (("start", self._start.start), ("net", self._net))
        return {f"{which} {name}": one for which, net in nets for name, one in net.items()}

    def _put_back(self, tensors: Mapping[str, torch.Tensor]) -> None:
        start, net = ({name: tensors[f"{which} {name}"] for name in self._net} for which in ("start", "net"))
        self._start.start, self._net = start, net
