"""LoRA: a product of low rank added to the weight (arXiv:2106.09685), and what PEFT builds on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    BIAS,
    COMMON,
    TARGETING,
    TRAINING,
    TRANSPOSED,
    AdapterSettings,
    Setting,
    read,
    refused,
    unused,
)

if TYPE_CHECKING:
    import torch

_CONVERTED = (
    "Save the adapter again with save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes it "
    "one for the base as it is"
)
_LOFTQ = (
    "Save the base as LoftQ left it (get_base_model().save_pretrained), set init_lora_weights to true in "
    "adapter_config.json, and name that base"
)
_OF_START = unused("how training started; init_lora_weights says what became of the base")
# Ways to start that leave the base as it is.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# Ways to start that take the base's own directions out of it, which can be done again; PEFT does when it loads them.
_TAKING = ("pissa", "olora")
_GONE = {
    "corda": "it took directions out of the base that depend on the data it was made with",
    "lora_ga": "it took directions out of the base that depend on the data it was made with",
    "loftq": "it stands beside the base in 4 or 8 bits, which PEFT makes again on a GPU when it loads the adapter",
    "pissa_niter": "it took directions out of the base that were found at random, PEFT finds others when it loads it",
}
LORA: Mapping[str, Setting] = {
    **COMMON,
    **TARGETING,
    **BIAS,
    **TRANSPOSED,
    "target_parameters": read("parameters adapted beside modules: fused experts"),
    "r": unused("the rank is that of the tensors in the file"),
    "rank_pattern": unused("the rank is that of the tensors in the file"),
    "lora_alpha": read("scale, divided by the rank"),
    "alpha_pattern": read("scale of modules by pattern"),
    "use_rslora": read("whether the scale is divided by the root of the rank"),
    "use_dora": read("whether the length of the weight's rows is trained apart"),
    "lora_bias": unused("trained biases of factors are in the file"),
    "lora_dropout": TRAINING,
    "init_lora_weights": read(
        "pissa and olora took the base's own directions out of it; corda, lora_ga, loftq and pissa_niter are refused"
    ),
    "loftq_config": _OF_START,
    "eva_config": _OF_START,
    "corda_config": _OF_START,
    "lora_ga_config": _OF_START,
    "kasa_config": read("the base loses its least directions, factors have a diagonal between them"),
    "use_bdlora": read("which factors are block-diagonal"),
    "velora_config": TRAINING,
    "monteclora_config": TRAINING,
    "megatron_config": unused("how layers are spread over devices"),
    "megatron_core": unused("how layers are spread over devices"),
    "runtime_config": TRAINING,
    "trainable_token_indices": read("rows of embeddings that are replaced"),
    "ensure_weight_tying": read("whether a tied head stays tied"),
    "merge_weights": unused("whether PEFT before 0.3 merged for inference"),
    "enable_lora": refused(
        "it splits one layer's outputs into groups of which some are adapted, as PEFT before 0.3 did",
        "Merge the adapter with the PEFT that wrote it",
        off=(None,),
    ),
    "qalora_group_size": unused("acts with use_qalora alone"),
    "use_qalora": refused(
        "its factors act on inputs pooled in groups, for quantised layers, and PEFT has no merge for it",
        "Use it with PEFT beside the quantised base",
    ),
    "alora_invocation_tokens": refused(
        "an activated LoRA acts only after its invocation tokens, so no merged weight can stand for it",
        "Use it with PEFT beside the base, or train one without invocation tokens",
        off=(None,),
    ),
    "layer_replication": refused(
        "it belongs to a model whose layers are the base's replicated",
        "Make that model first (a passthrough recipe of the same slices), save the adapter without layer_replication, "
        "and name that model as the base",
        off=(None, []),
    ),
    "arrow_config": refused(
        "a router mixes other adapters for every token", "Name one of the adapters it mixes", off=(None,)
    ),
}


class LoRA(Kind):
    """`scale * B A`; with DoRA, the rows of the sum are then brought to trained lengths (arXiv:2402.09353, eq. 5)."""

    peft_type = "LORA"
    title = "LoRA"
    source = "arXiv:2106.09685"
    prefix = "lora_"
    parts = (
        "lora_A.weight",
        "lora_B.weight",
        "lora_B.bias",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "lora_magnitude_vector.weight",
        "lora_diag",
        # Of training alone.
        "lora_monteclora_sampler.*",
        "lora_velora_*",
    )
    may_be_empty = ("lora_monteclora_sampler.*", "lora_velora_*")
    settings = LORA

    def refuse(self, settings: AdapterSettings) -> None:
        start = settings.get("init_lora_weights")
        if isinstance(start, str):
            start = start.lower()
        if not any(start is one or start == one for one in (*_PLAIN_STARTS, *_TAKING)):
            for word, why in _GONE.items():
                if isinstance(start, str) and start.startswith(word):
                    fix = _CONVERTED if word != "loftq" else _LOFTQ
                    raise settings.error("init_lora_weights", f"an adapter that started as {start}: {why}", fix)
            raise settings.error(
                "init_lora_weights", f"genepool does not know the start {start!r}", "Merge the adapter with PEFT first"
            )

    def check(self, layer: Layer) -> None:
        if layer.parameter:
            self._check_parameter(layer)
            return
        a, b = self._names(layer)
        rank = layer.size(a)[0]
        if layer.kernel:
            layer.expect(a, (rank, *layer.shape[1:]))
            layer.expect(b, (layer.out_features, rank, *(1 for _ in layer.kernel)))
        else:
            blocks_a, blocks_b = self._blocks(layer)
            layer.expect(a, (rank, layer.in_features // blocks_a))
            layer.expect(b, (layer.out_features, rank // blocks_b))
        if magnitude := self._magnitude(layer):
            found = layer.size(magnitude)
            layer.expect(magnitude, tuple(layer.out_features if size != 1 else 1 for size in found) or (1,))
            if math.prod(found) != layer.out_features:
                layer.expect(magnitude, (layer.out_features,))
        if "lora_diag" in layer:
            layer.expect("lora_diag", (rank,))
        if "lora_B.bias" in layer:
            layer.expect("lora_B.bias", (layer.out_features,))
            if not layer.has_bias():
                raise layer.error(
                    f"adds to the bias of {layer.module}, and the base has none there",
                    "PEFT cannot merge it either: use it with PEFT beside the base",
                )

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return ("weight", "bias") if "lora_B.bias" in layer else ("weight",)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        if leaf == "bias":
            return layer.read("lora_B.bias") * self.scale(layer)
        if layer.parameter:
            return self._parameter_change(layer)
        product = self._product(layer)
        added = product.left @ product.right * product.factor
        magnitude = self._magnitude(layer)
        if not magnitude:
            return added
        base = layer.weight()
        direction = base + added
        lengths = layer.read(magnitude).reshape(-1) / direction.norm(dim=1)
        moved: torch.Tensor = direction * lengths.unsqueeze(1) - base
        return moved

    def product(self, layer: Layer) -> Product | None:
        return None if self._magnitude(layer) else self._product(layer)

    def stored_features(self, layer: Layer) -> tuple[int, int] | None:
        a, b = self._names(layer)
        return layer.size(b)[0], layer.size(a)[-1]

    def scale(self, layer: Layer, rank: int | None = None) -> float:
        """`alpha / r`, or `alpha / sqrt(r)`."""
        rank = layer.size(self._names(layer)[0])[0] if rank is None else rank
        alpha = layer.settings.by_module("alpha_pattern", layer.parameter or layer.module)
        alpha = layer.settings.number("lora_alpha", 8) if alpha is None else alpha
        return alpha / (math.sqrt(rank) if layer.settings.flag("use_rslora") else rank)

    def _check_parameter(self, layer: Layer) -> None:
        """Factors of a parameter: one tensor for all experts, the experts' ranks beside each other."""
        a, b = layer.size("lora_A.weight"), layer.size("lora_B.weight")
        experts = layer.shape[0] if len(layer.shape) == 3 else 1
        sides = tuple(layer.shape[-2:])
        if len(layer.shape) not in (2, 3):
            raise layer.error(f"adapts {layer.parameter}, which has {len(layer.shape)} axes", "PEFT takes two or three")
        if len(a) != 2 or len(b) != 2 or a[0] % experts or (b[0], a[1]) not in (sides, sides[::-1]):
            layer.expect("lora_A.weight", (a[0] - a[0] % experts, sides[1]))
            layer.expect("lora_B.weight", (sides[0], a[0]))
        layer.expect("lora_B.weight", (b[0], a[0]))

    def _parameter_change(self, layer: Layer) -> torch.Tensor:
        """A product for every expert (PEFT's ParamWrapper), of the parameter's shape."""
        import torch

        a, b = layer.read("lora_A.weight"), layer.read("lora_B.weight")
        experts = layer.shape[0] if len(layer.shape) == 3 else 1
        rank = a.shape[0] // experts
        scale = self.scale(layer, rank)
        if len(layer.shape) == 2:
            return (b @ a) * scale
        change = torch.einsum("ore,eri->eoi", b.reshape(b.shape[0], rank, experts), a.reshape(experts, rank, -1))
        turned = change.shape != layer.shape or (layer.shape[1] == layer.shape[2] and layer.is_turned())
        return (change.mT if turned else change) * scale

    def _product(self, layer: Layer) -> Product:
        """What is added to the base as it is: the factors, less what was taken out of it when training started."""
        import torch

        a, b = (layer.read_stored(part) for part in self._names(layer))
        blocks_a, blocks_b = self._blocks(layer)
        if blocks_a > 1:
            a = block_diagonal(a, blocks_a)
        if blocks_b > 1:
            b = block_diagonal(b, blocks_b)
        if "lora_diag" in layer:
            a = layer.read("lora_diag").unsqueeze(1) * a.float()
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        scale = self.scale(layer)
        taken = self._taken(layer, a.shape[0], scale)
        if taken is None:
            return Product(b, a, scale)
        left, right = taken
        return Product(torch.cat((b.float() * scale, -left), 1), torch.cat((a.float(), right)))

    def _taken(self, layer: Layer, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The factors of what PEFT takes out of the base's weight, again whenever it loads the adapter."""
        import torch

        start = layer.settings.get("init_lora_weights")
        start = start.lower() if isinstance(start, str) else start
        kasa = bool(layer.settings.get("kasa_config"))
        if layer.layout == "embedding" or layer.kernel or not (kasa or start in _TAKING):
            return None
        if start == "olora":
            # PEFT decomposes the weight as the base stores it.
            q, r = torch.linalg.qr(layer.stored_weight())
            left, right = q[:, :rank] * scale, r[:rank]
            return (left, right) if layer.layout == "linear" else (right.T, left.T)
        left, values, right = torch.linalg.svd(layer.weight(), full_matrices=False)
        if kasa:
            kept = len(values) - rank
            return left[:, kept:] * values[kept:], right[kept:]
        return left[:, :rank] * values[:rank], right[:rank]

    def _names(self, layer: Layer) -> tuple[str, str]:
        if layer.layout == "embedding":
            return "lora_embedding_A", "lora_embedding_B"
        return "lora_A.weight", "lora_B.weight"

    def _magnitude(self, layer: Layer) -> str:
        return next((part for part in layer.parts if part.startswith("lora_magnitude_vector")), "")

    def _blocks(self, layer: Layer) -> tuple[int, int]:
        """Of how many blocks A and B are (BD-LoRA); 1 where they are plain matrices."""
        found = layer.settings.get("use_bdlora")
        if not found:
            return 1, 1
        if not isinstance(found, dict):
            raise layer.settings.error("use_bdlora", "expected settings of its own")
        count, word = found.get("nblocks", 1), layer.module.rpartition(".")[2]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= layer.in_features:
            raise layer.settings.error("use_bdlora", f"nblocks: got {count!r}, expected a whole number of at least 1")
        lists = [found.get(key) or [] for key in ("target_modules_bd_a", "target_modules_bd_b")]
        if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
            raise layer.settings.error("use_bdlora", "expected lists of names for target_modules_bd_a and _bd_b")
        a, b = (any(name in word for name in names) for names in lists)
        return (count if a else 1), (count if b and not a else 1)


def block_diagonal(stacked: torch.Tensor, count: int) -> torch.Tensor:
    """Blocks that are stored one above the other, laid along the diagonal; zero elsewhere."""
    rows, columns = stacked.shape[0] // count, stacked.shape[1]
    laid = stacked.new_zeros(count, rows, count, columns)
    for number, block in enumerate(stacked.chunk(count)):
        laid[number, :, number] = block
    return laid.reshape(count * rows, count * columns)
