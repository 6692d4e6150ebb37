"""The forecaster's network: one linear map from the past to the future, the same for every variable.

Variables do not mix, so one network forecasts series of any number of them. Before the map a window may be put to its
last value or to its mean and spread, and what was taken away is given back after it. Stored as an ordinary checkpoint
folder: config.json and safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.tasks.models.forecaster import MODEL_TYPE

Normalised = Literal["none", "last", "window"]
NORMALISED: tuple[Normalised, ...] = get_args(Normalised)
_LONGEST, _WIDEST = 100_000, 4096
# A window without any spread is divided by this.
_LEAST = 1e-5


@dataclass(frozen=True)
class ForecasterShape:
    """What decides the tensors' shapes, and what is done to a window.

    Attributes:
        lookback: steps that are read.
        horizon: steps that are forecast.
        hidden: units of a hidden layer beside the linear map; 0 for none.
        normalised: "none", "last" (less the last value) or "window" (less the mean, by the standard deviation).
    """

    lookback: int
    horizon: int
    hidden: int = 0
    normalised: Normalised = "last"

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["ForecasterNetwork"],
            "model_type": MODEL_TYPE,
            "lookback": self.lookback,
            "horizon": self.horizon,
            "hidden_size": self.hidden,
            "normalised": self.normalised,
            "dtype": "float32",
        }

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, where: str) -> ForecasterShape:
        """The shape that a config.json describes.

        Raises:
            InputError: it is not one of a forecaster.
        """
        if config is None or config.get("model_type") != MODEL_TYPE:
            raise InputError("is not a forecaster", where=where, fix="Name a model built with --bed series")
        fix, sizes = "Copy the base's config.json", []
        for key, least, most in (("lookback", 1, _LONGEST), ("horizon", 1, _LONGEST), ("hidden_size", 0, _WIDEST)):
            value = config.get(key, 0 if key == "hidden_size" else None)
            if not is_whole(value, least, most):
                raise InputError(
                    f"got {value!r:.40}, expected a whole number from {least} to {most}",
                    where=f"{where}:config.json:{key}",
                    fix=fix,
                )
            sizes.append(value)
        normalised = config.get("normalised", "none")
        if normalised not in NORMALISED:
            raise InputError(
                f"got {normalised!r:.40}, expected one of {', '.join(NORMALISED)}",
                where=f"{where}:config.json:normalised",
                fix=fix,
            )
        return cls(sizes[0], sizes[1], sizes[2], normalised)


class ForecasterNetwork(nn.Module):
    """Windows (n, lookback, variables) in, forecasts (n, horizon, variables) out."""

    def __init__(self, shape: ForecasterShape) -> None:
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(shape.lookback, shape.horizon)
        self.first = nn.Linear(shape.lookback, shape.hidden) if shape.hidden else None
        self.second = nn.Linear(shape.hidden, shape.horizon) if shape.hidden else None

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        past = series.transpose(1, 2)
        taken, scale = torch.zeros_like(past[..., :1]), torch.ones_like(past[..., :1])
        if self.shape.normalised == "last":
            taken = past[..., -1:]
        elif self.shape.normalised == "window":
            taken, scale = past.mean(-1, keepdim=True), past.std(-1, keepdim=True, unbiased=False) + _LEAST
        past = (past - taken) / scale
        found = self.linear(past)
        if self.first is not None and self.second is not None:
            found = found + self.second(functional.gelu(self.first(past)))
        out: torch.Tensor = (found * scale + taken).transpose(1, 2)
        return out
