"""What a mixture's architecture says: what it is made of, what its config says and what its tensors are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

#: Matrices of a dense MLP; the last writes into the residual stream.
MATRICES = ("gate_proj", "up_proj", "down_proj")


class MixtureShape(ABC):
    """One architecture.

    Class attributes:
        name: as recipes call it.
        order: the smallest that fits is taken where a recipe names none.
        dense: `model_type` of the dense models it can be made of.
        shared: the fewest and the most shared experts.
        gates_shared: whether the shared expert has a gate.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    dense: ClassVar[frozenset[str]]
    shared: ClassVar[tuple[int, int]] = (0, 0)
    gates_shared: ClassVar[bool] = False

    @abstractmethod
    def config(self, base: Mapping[str, Any], experts: int, shared: int, per_token: int | None) -> dict[str, Any]:
        """config.json of the mixture, from the base's."""

    @abstractmethod
    def expert(self, number: int, matrix: str) -> str:
        """What an expert's matrix is called within its layer: "mlp.experts.0.gate_proj.weight"."""

    def gate(self) -> str:
        """What the gate is called within its layer."""
        return "mlp.gate.weight"

    def shared_expert(self, matrix: str) -> str:
        """What the shared expert's matrix is called within its layer."""
        return f"mlp.shared_expert.{matrix}.weight"

    def shared_gate(self) -> str:
        """What its gate is called within its layer."""
        return "mlp.shared_expert_gate.weight"

    def zeros(self, base: Mapping[str, Any], layer: str) -> dict[str, tuple[int, ...]]:
        """Tensors that the base may lack and that are zero then, by name, with their shapes."""
        return {}


def kept(base: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """The base's settings without some, and without code that was for it alone."""
    return {key: value for key, value in base.items() if key not in {"auto_map", *without}}
