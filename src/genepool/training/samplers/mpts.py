"""MPTS: of some candidates those whose predicted loss is high or not well known, learning from losses it saw."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.seeding import derive, torch_generator
from genepool.training.samplers.parameters import ParameterOptions, ParameterSampler

if TYPE_CHECKING:
    import numpy as np

    from genepool.training.risk_learner import RiskLearner


class MptsOptions(ParameterOptions):
    """Options of MPTS."""

    candidates: float = Field(
        default=2.0, ge=1, le=1000, description="Candidates of a step, a multiple of its examples (authors' code: 2)."
    )
    mean: float = Field(default=1.0, ge=-1000, le=1000, description="Weight of the predicted risk (authors' code: 1).")
    spread: float = Field(
        default=3.0, ge=-1000, le=1000, description="Weight of its standard deviation (authors' code: 3)."
    )
    random: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Part of the examples of a step that are any of the candidates (authors' code: 0 in regression, "
        "0.5 in domain randomisation).",
    )
    hidden: int = Field(default=10, ge=1, le=1024, description="Width of the risk learner (authors' code: 10).")
    code: int = Field(default=10, ge=1, le=1024, description="Dimensions of its code (authors' code: 10).")
    draws: int = Field(default=20, ge=2, le=1000, description="Codes that are drawn to predict (authors' code: 20).")
    rate: float = Field(default=5e-4, gt=0, le=1, description="Its learning rate (authors' code: 0.0005).")


class Mpts(ParameterSampler):
    """Takes the candidates of the highest mean + 3 standard deviations of the risk that a small network predicts.

    Candidates are examples drawn at random. The risk is the loss of an example, or its reward less; the network learns
    from the examples of each step once, which were computed anyway.
    """

    name = "mpts"
    source = "Wang et al., Model Predictive Task Sampling (arXiv:2501.11039); as in the authors' code"
    when = "The worst examples count, and numbers say where they are."
    Options = MptsOptions
    observed = "risk"

    @cached_property
    def learner(self) -> RiskLearner:
        """The network, as it begins from the seed."""
        import torch

        from genepool.training.risk_learner import RiskLearner

        own = self.options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.arms.seed, "sampler", self.name))
            return RiskLearner(len(self.space), own.hidden, own.code, own.draws, own.rate)

    def learn(self, step: int, points: np.ndarray, values: np.ndarray) -> None:
        import torch

        given = torch.from_numpy(points).float(), torch.from_numpy(values).float()
        self.learner.learn(*given, torch_generator(self.arms.seed, "sampler", self.name, "learn", step))

    def scores(self, step: int, points: np.ndarray) -> np.ndarray:
        """What candidates are chosen by, (candidates,)."""
        import torch

        generator = torch_generator(self.arms.seed, "sampler", self.name, "predict", step)
        mean, deviation = self.learner.predict(torch.from_numpy(points).float(), generator)
        found: np.ndarray = (self.options.mean * mean + self.options.spread * deviation).double().numpy()
        return found

    def points(self, step: int, size: int) -> np.ndarray:
        found: np.ndarray = self.space.points[self.places(step, size)]
        return found

    def places(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        generator, count = self.generator("candidates", step), round(self.options.candidates * size)
        candidates = generator.choice(len(self.space.points), count, replace=count > len(self.space.points))
        order = np.argsort(-self.scores(step, self.space.points[candidates]), kind="stable")
        best = size - round(self.options.random * size)
        others = generator.permutation(order[best:])[: size - best]
        found: np.ndarray = candidates[np.concatenate([order[:best], others])]
        return found
