"""The merged model as `Weights`, so that merges nest and candidates are evaluated without touching the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.merging.engine import Engine
from genepool.merging.outputs import OutputTensor
from genepool.merging.plan import Plan
from genepool.weights import TensorInfo, Weights

if TYPE_CHECKING:
    import torch


class MergedWeights(Weights):
    """The result of a merge as `Weights`: nothing is computed before it is read, nothing touches the disk."""

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        self.plan, self.engine = plan, Engine(plan, device)
        self.name = f"{plan.method.name}({', '.join(plan.recipe.model_names()[1:])})"
        self.folder, self.config, self.chat_template = plan.reference.folder, plan.config, plan.chat_template
        self.control = plan.control
        self._outputs = {out.name: out for out in plan.layout.outputs}

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.plan.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def aliases(self) -> Mapping[str, str]:
        return self.plan.layout.copies

    def stored_names(self) -> tuple[str, ...]:
        return tuple(self.plan.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.plan.stored

    def info(self, name: str) -> TensorInfo:
        return self.plan.stored[name]

    def read(self, name: str) -> torch.Tensor:
        return self.engine.tensor(self._output(name))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.engine.rows(self._output(name), start, stop)

    def _output(self, name: str) -> OutputTensor:
        return self._outputs[self.plan.layout.copies.get(name, name)]

    def fingerprint(self) -> str:
        return self.plan.fingerprint()
