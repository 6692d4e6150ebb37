"""A forecaster of series: it reads a window of the past and says what the next steps are.

`network` is the network itself; the testbed of series trains it. Importing this file needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.tasks.models import Capability, model_kind
from genepool.tasks.own_network import BuiltNetwork, built_to_fit
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "genepool_forecaster"
#: What a window is called where the network is asked.
SERIES = "series"


@model_kind
class Forecaster(BuiltNetwork):
    """A forecaster in memory, ready to be asked."""

    kind = "a forecaster of series"
    can: ClassVar[frozenset[Capability]] = frozenset({"forecasts"})

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs of our own type."""
        return config.get("model_type") == MODEL_TYPE

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""
        from functools import partial

        from genepool.tasks.models.forecaster.network import ForecasterNetwork, ForecasterShape

        shape = ForecasterShape.of(weights.config, weights.name)
        return built_to_fit(partial(ForecasterNetwork, shape), weights).eval().to(dtype=kind)

    @property
    def lookback(self) -> int:
        """Steps of a window that it reads."""
        return int(self.model.shape.lookback)

    @property
    def horizon(self) -> int:
        """Steps that it forecasts."""
        return int(self.model.shape.horizon)

    def forecast(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Model.forecast`."""
        found: torch.Tensor = self.run(range(len(windows)), series=windows)
        return found.float()
