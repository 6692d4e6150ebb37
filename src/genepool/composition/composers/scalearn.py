"""ScaLearn: how much each output of each layer takes of each adapter, learned from labelled examples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.composition.coefficients import CoefficientLayout, Parametrisation
from genepool.composition.composer import register
from genepool.composition.fitting import FitOptions, ObjectiveName
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.skill_set import SkillSet
from genepool.seeding import torch_generator

if TYPE_CHECKING:
    import torch


class ScaLearnOptions(FitOptions):
    """Options of ScaLearn."""

    objective: ObjectiveName = Field(
        default="likelihood", description="What a step minimises; see `adamerging`. The authors': of the right answers."
    )
    batch: int = Field(default=32, ge=1, le=10**5, description="Examples of each task in a step (the authors').")
    scales: Literal["output", "layer"] = Field(
        default="output", description="A scale for each output of a layer, or one for a layer (ScaLearn Uniform)."
    )
    shared: bool = Field(default=False, description="Share the scales over the layers (ScaLearn++).")
    dropout: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="Share of the scales that are 0 in a step, drawn anew for each; the others grow to make up for it "
        "(the authors' code, which drops scales, not activations).",
    )
    spread: float = Field(
        default=1e-3, ge=0, le=1, description="Standard deviation around 2 / k that the scales are drawn with."
    )


class OutputScales(Parametrisation):
    """Scales for every output of every layer, or for every layer, perhaps the same in all layers.

    Args:
        layout: the coefficients; parts are rows.
        options: what is shared.
        seed: of the first scales.
    """

    def __init__(self, layout: CoefficientLayout, options: ScaLearnOptions, seed: int) -> None:
        import torch

        self._layout, self._options, self._seed = layout, options, seed
        # Layers differ by the numbers in their tensors' names.
        keys = [re.sub(r"\.\d+\.", ".*.", name) if options.shared else name for name in layout.names]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._groups = torch.tensor([numbers[key] for key in keys])
        self._shared = len(numbers) < len(keys)

    def start(self) -> dict[str, torch.Tensor]:
        import torch

        rows = self._layout.parts if self._options.scales == "output" else 1
        shape = (self._layout.skills, int(self._groups.max()) + 1, rows)
        drawn = torch.randn(shape, generator=torch_generator(self._seed, "scalearn"))
        return {"omega": 2 / self._layout.skills + self._options.spread * drawn}

    def coefficients(self, learned: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._spread_out(learned["omega"])

    def in_step(self, learned: Mapping[str, torch.Tensor], step: int) -> torch.Tensor:
        import torch

        share, omega = self._options.dropout, learned["omega"]
        kept = torch.rand(omega.shape, generator=torch_generator(self._seed, "scalearn dropout", step)) >= share
        return self._spread_out(omega * kept / (1 - share))

    def _spread_out(self, omega: torch.Tensor) -> torch.Tensor:
        return omega[:, self._groups].expand(self._layout.shape)

    def by_tensor(self) -> list[Parametrisation] | None:
        # A step that drops scales merges without them, so a tensor cannot be merged for the next step already.
        if self._shared or self._options.dropout:
            return None
        layouts = [replace(self._layout, names=(name,)) for name in self._layout.names]
        return [OutputScales(one, self._options, self._seed) for one in layouts]


@register(
    "scalearn",
    source="Frohmann et al., ScaLearn, arXiv:2310.01217: scales drawn from N(2/k, 1e-3), batch 32, dropout 0.3 "
    "of the scales",
    when="The skills are adapters and a few labelled examples are there; the result is one adapter.",
    needs="answers",
    gradients=True,
    out="adapter",
    cost="as adamerging",
)
class ScaLearn(LearnedMerge[ScaLearnOptions]):
    """`h += sum_i omega_i * (s_i B_i A_i x)`, elementwise: in a linear layer each row of B is scaled, so it folds."""

    by_rows = True

    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        return OutputScales(layout, self.options, seed)
