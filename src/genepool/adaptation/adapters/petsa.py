"""PETSA: a frozen forecaster between two small calibrations, which learn from the truth as it comes, also in part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch.nn import functional

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.stream_model import Inputs
from genepool.seeding import torch_generator
from genepool.tasks.models.forecaster import SERIES, Forecaster

# A series whose spread is less than this correlates with nothing.
_FLAT = 1e-8


class PetsaOptions(RateOptions):
    """Options of PETSA."""

    rank: int = Field(
        default=16, ge=0, le=4096, description="Of the calibrations; 0 leaves their bias alone. The authors' code."
    )
    gate: float = Field(default=0.01, ge=-100, le=100, description="Of a variable, at the start; the authors' code.")
    huber: float = Field(default=0.5, gt=0, description="Where the Huber loss turns linear; the authors' code.")
    frequency: float = Field(default=0.1, ge=0, description="Weight of the loss of frequencies; the authors' code.")
    structure: float = Field(default=1.0, ge=0, description="Weight of the loss of structure; the authors' code.")
    partial: bool = Field(
        default=True, description="Also learn from the steps of a batch that came within it; the authors' code."
    )


class Petsa(GradientAdapter):
    """f = c_out(F(c_in(x))), F the frozen forecaster; c(x) = x + tanh(g x) (A B) + b for each variable.

    A is one for all variables, Kaiming uniform; B and b are 0 at the start, so nothing is changed then. The loss of a
    forecast f with the truth y is Huber(f, y) + w mean |FFT f - FFT y| + s (1 - r + KL(q_y | q_f) + |mean f - mean y|):
    FFT along time, r their correlation over all values, q the softmax along time of what is less its mean. A step of
    Adam follows for each batch whose every step has come, and one for the first window of the batch itself, as far as
    the later windows have shown what follows it. Then far steps of the batch are forecast again; these forecasts are on
    record as `late` and count for no score.

    In the released code the softmax runs over windows, the KL is given probabilities for logarithms, the FFT of a
    single window runs over variables, and what is issued already learned from its own batch. Here it is issued first.
    """

    name = "petsa"
    source = (
        "Medeiros et al., Accurate Parameter-Efficient Test-Time Adaptation for Time Series Forecasting, 2025; "
        "architecture and defaults of the authors' code, losses mended as said above; the rate is TENT's"
    )
    when = "a series changes its level or its shape, and the forecaster must stay as it is"
    trains = "added"
    needs = frozenset({"late labels"})
    asks = frozenset({"series"})
    order = "Series come in the order of time."
    Options = PetsaOptions

    def added(self, source: SourceExamples | None) -> dict[str, torch.nn.Parameter]:
        assert isinstance(self.options, PetsaOptions)
        asked, variables, rank = self.model.asked, self.model.variables, self.options.rank
        assert isinstance(asked, Forecaster)
        found: dict[str, torch.Tensor] = {}
        for side, length in (("input", asked.lookback), ("output", asked.horizon)):
            found[f"{side} bias"] = torch.zeros(length, variables)
            if rank:
                generator = torch_generator(self.seed, "petsa", side)
                found[f"{side} gate"] = torch.full((variables,), self.options.gate)
                # Kaiming uniform with a slope of sqrt 5, whose fan-in is the rank.
                found[f"{side} A"] = (2 * torch.rand(length, rank, generator=generator) - 1) * rank**-0.5
                found[f"{side} B"] = torch.zeros(rank, length, variables)
        return {name: torch.nn.Parameter(one.to(self.model.device)) for name, one in found.items()}

    def forecast(self, inputs: Inputs) -> torch.Tensor:
        """What follows each window, shape (n, horizon, variables), with gradients where they are on."""
        windows = inputs.whole(SERIES)
        kept = self.calibrated("input", windows.float()).to(windows.dtype)
        return self.calibrated("output", self.model.forecast(inputs.mapped(SERIES, kept)))

    def calibrated(self, side: str, values: torch.Tensor) -> torch.Tensor:
        """c(x), shaped as x: (n, steps, variables)."""
        own = self._added
        found = values + own[f"{side} bias"]
        if f"{side} A" in own:
            weight = torch.einsum("ik,kov->iov", own[f"{side} A"], own[f"{side} B"])
            found = found + torch.einsum("niv,iov->nov", torch.tanh(own[f"{side} gate"] * values), weight)
        return found

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        self._issued = self.look(batch.inputs)
        return self._issued

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self.forecast(inputs).cpu()

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """Nothing can be learned from a batch whose truth has not come."""
        return StreamLoss(None, torch.zeros(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, PetsaOptions)
        kept, again = torch.zeros(len(batch), dtype=torch.bool), None
        for one in late:
            truth = one.targets.to(self.model.device)
            if one.whole:
                self.follow(petsa_loss(self.forecast(one.batch.inputs), truth, self.options))
                continue
            come = int(truth[0].isfinite().all(-1).sum())
            if self.options.partial and come:
                first = self.forecast(first_of(one.batch.inputs))[:, :come]
                self.follow(petsa_loss(first, truth[:1, :come], self.options))
                kept[0] = True
            # Steps that have come stay as they were issued.
            again = torch.where(one.targets.isnan(), self.look(batch.inputs), self._issued)
        return Signals(kept, kept.float(), late=again)


def first_of(inputs: Inputs) -> Inputs:
    """The first window alone."""
    return Inputs((((0,), {SERIES: inputs.whole(SERIES)[:1]}),), 1)


def petsa_loss(forecast: torch.Tensor, truth: torch.Tensor, options: PetsaOptions) -> torch.Tensor:
    """The loss of forecasts, a scalar.

    Args:
        forecast, truth: shape (n, steps, variables).
        options: the weights of its parts.
    """
    value: torch.Tensor = functional.huber_loss(forecast, truth, delta=options.huber)
    apart = torch.fft.rfft(forecast, dim=1) - torch.fft.rfft(truth, dim=1)
    value = value + options.frequency * apart.abs().mean()
    if options.structure:
        means = (forecast.mean(1) - truth.mean(1)).abs().mean()
        value = value + options.structure * (1 - correlation(forecast, truth) + apart_in_shape(forecast, truth) + means)
    return value


def correlation(forecast: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation over all values, a scalar; 0 where one of both is flat."""
    one, other = (values.flatten() - values.mean() for values in (forecast, truth))
    size = one.norm() * other.norm()
    return (one * other).sum() / size if float(size.detach()) > _FLAT else forecast.sum() * 0


def apart_in_shape(forecast: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """KL(q_y | q_f), the mean over windows and variables: q is the softmax along time of what is less its mean."""
    ours, theirs = ((values - values.mean(1, keepdim=True)).log_softmax(1) for values in (forecast, truth))
    return (theirs.exp() * (theirs - ours)).sum(1).mean()
