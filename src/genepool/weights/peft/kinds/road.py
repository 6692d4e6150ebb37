"""RoAd: pairs of outputs turned and stretched (arXiv:2409.00119)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, AdapterSettings, declared, read

if TYPE_CHECKING:
    import torch

_VARIANTS = ("road_1", "road_2", "road_4")


class RoAd(Kind):
    """`R W` and `R b`, R of blocks `[[a1 cos t1, -a2 sin t2], [a3 sin t3, a4 cos t4]]`."""

    peft_type = "ROAD"
    title = "RoAd"
    source = "arXiv:2409.00119"
    prefix = "road_"
    parts = ("road_theta", "road_alpha")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            "target_modules": TARGETING["target_modules"],
            "variant": read("how many of a block's numbers are its own: 1, 2 or 4 pairs"),
            "group_size": read("outputs are paired within groups of so many"),
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        settings.choice("variant", _VARIANTS, "road_1")
        if settings.integer("group_size", 64, 2) % 2:
            raise settings.error("group_size", "got an odd number, expected an even one")

    def check(self, layer: Layer) -> None:
        outputs = layer.out_features
        size = {"road_1": outputs // 2, "road_2": outputs, "road_4": 2 * outputs}[self._variant(layer)]
        layer.expect("road_theta", (size,))
        layer.expect("road_alpha", (size,))
        if outputs % layer.settings.integer("group_size", 64, 2):
            raise layer.settings.error(
                "group_size", f"got a size that does not divide the {outputs} outputs of {layer.module}"
            )

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return ("weight", "bias") if layer.has_bias() else ("weight",)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        values = layer.bias().unsqueeze(1) if leaf == "bias" else layer.weight()
        half = layer.settings.integer("group_size", 64, 2) // 2
        straight, across = self._columns(layer)
        groups = values.reshape(-1, 2, half, values.shape[1])
        swapped = torch.stack((-groups[:, 1], groups[:, 0]), 1).reshape(values.shape)
        turned = straight.unsqueeze(1) * values + across.unsqueeze(1) * swapped
        change = turned - values
        return change.reshape(-1) if leaf == "bias" else change

    def _columns(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        """What each output is multiplied by, and what the other of its pair is, before it is added."""
        theta, alpha = layer.read("road_theta"), layer.read("road_alpha")
        group = layer.settings.integer("group_size", 64, 2)
        if self._variant(layer) == "road_1":
            theta, alpha = (one.reshape(-1, group // 2).repeat_interleave(2, 0).reshape(-1) for one in (theta, alpha))
        if self._variant(layer) != "road_4":
            return alpha * theta.cos(), alpha * theta.sin()
        theta, alpha = theta.reshape(-1, 2, group), alpha.reshape(-1, 2, group)
        return (alpha[:, 0] * theta[:, 0].cos()).reshape(-1), (alpha[:, 1] * theta[:, 1].sin()).reshape(-1)

    def _variant(self, layer: Layer) -> str:
        return str(layer.settings.choice("variant", _VARIANTS, "road_1"))
