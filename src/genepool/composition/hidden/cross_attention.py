"""CALM's connections: a layer of one model attends to what a layer of another model gave for the same tokens.

`h += gain * RMSNorm(MHA(q=h, kv=W h'))` (Bansal et al. 2024, arXiv:2401.02412, authors' code), with a gain that begins
at zero, so that the model with fresh connections is the model without. Uses torch alone.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

#: Keys and values of a connection, (rows, heads, places, width of a head) each.
Projected = tuple[torch.Tensor, torch.Tensor]
# Added to the mean square before its root is taken, as in Llama.
_EPSILON = 1e-6


class Connection(nn.Module):
    """One connection, from a layer of the augmenting model to a layer of the anchor.

    Args:
        width: of the anchor's hidden states.
        other: of the augmenting model's.

    Attributes:
        heads: of the attention; must divide the width.
    """

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.project = nn.Linear(other, width, bias=False)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gain = nn.Parameter(torch.zeros(width))
        self.heads = 1

    def projected(self, states: torch.Tensor) -> Projected:
        """Keys and values of the augmenting model's states, (rows, places, its width)."""
        own = self.project(states)
        return self._by_head(self.key(own)), self._by_head(self.value(own))

    def forward(self, states: torch.Tensor, known: Projected, seen: torch.Tensor) -> torch.Tensor:
        """The anchor's states with what they attend to, (rows, new, width).

        Args:
            states: the anchor's, (rows, new, width).
            known: keys and values of all places so far.
            seen: which of these each new place may see, (rows, new, places); at least one each.
        """
        found = functional.scaled_dot_product_attention(
            self._by_head(self.query(states)), *known, attn_mask=seen.unsqueeze(1)
        )
        mixed = self.out(found.transpose(1, 2).flatten(2))
        scale = mixed.float().square().mean(-1, keepdim=True).add(_EPSILON).rsqrt().to(mixed.dtype)
        added: torch.Tensor = states + self.gain * (mixed * scale)
        return added

    def _by_head(self, states: torch.Tensor) -> torch.Tensor:
        rows, places, _ = states.shape
        return states.view(rows, places, self.heads, -1).transpose(1, 2)


def seen_places(mask: torch.Tensor, new: int) -> torch.Tensor:
    """Which places each new place may see: itself, and those before it that are no padding; (rows, new, places).

    Args:
        mask: which places count, read ones first, (rows, places).
        new: how many of the last places are new.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    own = places[-new:, None]
    # Padding sees itself: a row of the softmax without a place would be NaN, and NaN reaches whoever weighs it by 0.
    return (mask.bool()[:, None] & (places <= own)) | (places == own)


def spaced(layers: int, count: int) -> list[int]:
    """The numbers of `count` layers that stand evenly spaced, the last one among them."""
    return [-(-layers * number // count) - 1 for number in range(1, count + 1)]
