"""X-Cross's gates: each of several models keeps its stream of hidden states, and takes of the others what a gate says.

Behind layer l, `h_i += sum_j g_ij (h_j - h_i)`, where all g of a place are one small linear map of all streams of it;
the predictions of the streams are averaged by learned weights (Hadad et al. 2025, arXiv:2504.20859; that the maps begin
at zero is ours). Uses torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class StreamGates(nn.Module):
    """The gates behind every layer, and the weights of the average. Fresh ones let each stream be.

    Args:
        sources: how many streams there are.
        width: of a hidden state.
        layers: how many layers each model has.
    """

    def __init__(self, sources: int, width: int, layers: int) -> None:
        super().__init__()
        self.sources = sources
        maps = [nn.Linear(sources * width, sources**2) for _ in range(layers)]
        for one in maps:
            nn.init.zeros_(one.weight)
            nn.init.zeros_(one.bias)
        self.width = width
        self.maps, self.scores = nn.ModuleList(maps), nn.Parameter(torch.zeros(sources))

    def exchanged(self, number: int, streams: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The streams after they took of each other.

        Args:
            number: of the layer that they come from.
            streams: one a source, (rows, places, width).
        """
        gates = self.maps[number](torch.cat(list(streams), -1)).unflatten(-1, (self.sources, self.sources))
        stacked = torch.stack(list(streams), -2)
        # sum_j g_ij (h_j - h_i) = sum_j g_ij h_j - (sum_j g_ij) h_i
        taken = gates @ stacked - gates.sum(-1, keepdim=True) * stacked
        return list((stacked + taken).unbind(-2))

    def averaged(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """The streams' predictions, averaged by the softmax of the scores.

        Output layers are linear, so models that share one give the prediction of the averaged last states.
        """
        shares = self.scores.softmax(0).to(predictions[0].dtype)
        return torch.stack([share * one for share, one in zip(shares, predictions, strict=True)]).sum(0)
