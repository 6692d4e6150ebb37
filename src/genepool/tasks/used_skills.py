"""Which skills answered a prompt: what `genepool generate --show-skills` prints. A `Model` tells it where it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A weight that is shown; others are 0 to three digits.
SHOWN = 5e-4


@dataclass(frozen=True)
class UsedSkills:
    """Which skills answered one prompt.

    Attributes:
        weights: of every skill that weighs something, by name, for the whole answer; empty where the base answered
            alone, and where the skills change from token to token.
        tokens: for models that decide by token: every token of the answer as text, and the weights of the skills where
            it was predicted, the mean over layers.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    tokens: tuple[tuple[str, Mapping[str, float]], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        if self.tokens:
            return {"tokens": [{"token": token, "skills": dict(weights)} for token, weights in self.tokens]}
        return {"skills": dict(self.weights)}

    def lines(self) -> list[str]:
        """As text: one line, or one for each token."""
        if self.tokens:
            return [f"{json.dumps(token, ensure_ascii=False)}: {_said(weights)}" for token, weights in self.tokens]
        return [f"skills: {_said(self.weights)}"]


def _said(weights: Mapping[str, float]) -> str:
    """Skills in the order of their weights."""
    ordered = sorted(weights.items(), key=lambda pair: -abs(pair[1]))
    return ", ".join(f"{name} {weight:.3g}" for name, weight in ordered) or "none, the base alone"
